package probe

import (
	"fmt"
	"io"
	"strings"
)

// marks begin the lines of a printed diagnosis.
var marks = map[State]spoken{
	Passed: {"ok  ", "正常"}, Warned: {"WARN", "注意"}, Failed: {"FAIL", "失败"}, Skipped: {"-   ", "-   "},
}

// phrases are what Print says besides findings.
var phrases = map[string]spoken{
	"cause": {"cause: ", "原因："},
	"next":  {"next:  ", "下一步："},
	"good":  {"Nothing is wrong.", "一切正常。"},
	"warn":  {"It works. Look at the first WARN.", "可以使用。请看第一条“注意”。"},
	"fail":  {"Something fails. Begin with the first FAIL: what comes after it may follow from it.", "有检查失败。请从第一条“失败”着手：后面的可能由它引起。"},
	"and":   {", ", "、"},
	"took":  {"%s (%.1f s)", "%s（%.1f 秒）"},
}

// Print writes d for people, in the language in which it was found.
func (d Diagnosis) Print(w io.Writer, lang string) error {
	var b strings.Builder
	where := fmt.Sprintf("%s:%d", d.Host, d.Port)
	if strings.Contains(d.Host, ":") {
		where = fmt.Sprintf("[%s]:%d", d.Host, d.Port)
	}
	if d.Node != "" {
		where = d.Node + ", " + where
	}
	fmt.Fprintln(&b, where)
	titles := ""
	for i, f := range d.Findings {
		if f.After != "" { // many may follow from one: they share a line
			titles += f.Title
			if i+1 < len(d.Findings) && d.Findings[i+1].After == f.After {
				titles += phrases["and"].in(lang)
				continue
			}
			f.Title, titles = titles, ""
		}
		fmt.Fprintf(&b, "  %s  %s: %s\n", marks[f.State].in(lang), f.Title, f.Evidence)
		if f.Cause != "" {
			fmt.Fprintf(&b, "        %s%s\n", phrases["cause"].in(lang), f.Cause)
		}
		if f.Next != "" {
			fmt.Fprintf(&b, "        %s%s\n", phrases["next"].in(lang), f.Next)
		}
	}
	verdict := "good"
	if worst, ok := d.Worst(); ok {
		verdict = string(worst.State)
	}
	fmt.Fprintf(&b, "  "+phrases["took"].in(lang)+"\n", phrases[verdict].in(lang), d.Took)
	_, err := io.WriteString(w, b.String())
	return err
}

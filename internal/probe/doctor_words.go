package probe

import "strings"

// words are what is said of one outcome. says, cause and next may use the outcome's
// arguments as %[1]s, %[2]s and so on. cause and next are there for warnings and
// failures alone.
type words struct{ says, cause, next string }

// spoken is a text in every language.
type spoken struct{ en, zh string }

// Chinese is the language of DoctorOptions.Lang beside English.
const Chinese = "zh"

func (s spoken) in(lang string) string {
	if lang == Chinese {
		return s.zh
	}
	return s.en
}

// Language chooses by the value of a variable like LANG, "zh_CN.UTF-8": Chinese, or
// else English.
func Language(locale string) string {
	if strings.HasPrefix(strings.ToLower(locale), Chinese) {
		return Chinese
	}
	return "en"
}

// title is how a check is called.
func title(lang, id string) string { return titles[id].in(lang) }

func wordsOf(lang, code string) words {
	if lang == Chinese {
		return chinese[code]
	}
	return english[code]
}

var titles = map[string]spoken{
	"local":          {"Relay process", "中继进程"},
	"map":            {"DERP map", "DERP map"},
	"dns":            {"DNS", "域名解析"},
	"tcp4":           {"TCP, IPv4", "TCP（IPv4）"},
	"tcp6":           {"TCP, IPv6", "TCP（IPv6）"},
	"tls":            {"TLS", "TLS"},
	"clock":          {"Clocks", "时钟"},
	"tls.dates":      {"Certificate dates", "证书有效期"},
	"tls.trust":      {"Certificate trust", "证书信任"},
	"tls.sni":        {"TLS without a name", "无 SNI 的 TLS"},
	"http":           {"HTTP upgrade", "HTTP 升级"},
	"derp.key":       {"Server key", "服务器密钥"},
	"faststart":      {"Fast start", "快速启动"},
	"login":          {"Login", "登录"},
	"relay.login":    {"Two clients", "两个客户端"},
	"relay.small":    {"Packets of 1 byte", "1 字节数据包"},
	"relay.usual":    {"Packets of 1400 bytes", "1400 字节数据包"},
	"relay.large":    {"Packets of 65536 bytes", "65536 字节数据包"},
	"relay.disco":    {"Disco packets", "disco 数据包"},
	"ping":           {"Ping", "Ping"},
	"keepalive":      {"Keepalive", "保活"},
	"stun":           {"STUN", "STUN"},
	"stun.address":   {"STUN's answer", "STUN 的回答"},
	"stun.rfc":       {"STUN, plain", "标准 STUN"},
	"portal":         {"Port 80", "80 端口"},
	"admission":      {"Strangers", "陌生人"},
	"member":         {"Your node", "你的节点"},
	"renewal":        {"Renewal", "证书续期"},
	"version":        {"Version", "版本"},
	"host.files":     {"Open files", "文件数上限"},
	"host.backlog":   {"Backlog", "连接队列"},
	"host.buffers":   {"Socket buffers", "套接字缓冲区"},
	"host.conntrack": {"Connection tracking", "连接跟踪"},
}

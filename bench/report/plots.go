package main

import (
	"cmp"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// figure is one SVG file.
type figure struct {
	file, title string
	fill        func(d *dataset, p *plot.Plot) error
	height      vg.Length
}

var plots = []figure{
	{"ratios.svg", "How many times better than derper in the same round (dark mark: the target)", ratios, 15 * vg.Centimeter},
	{"latency.svg", "Latency by load (left pair of bars: p50, right pair: p99)", latency, 9 * vg.Centimeter},
	{"overload.svg", "Packets delivered over packets sent, thousands a second, one core", goodput, 9 * vg.Centimeter},
	{"memory.svg", "Resident memory per idle peer", memory, 9 * vg.Centimeter},
}

// figureWidth is of every figure. A label longer than its axis takes room from the
// data, so labels are short and titles explain.
const figureWidth = 20 * vg.Centimeter

// The relays' colours, and that of targets: apart for most kinds of colour blindness.
var (
	derperColor = color.RGBA{R: 0xd5, G: 0x5e, A: 0xff}
	detourColor = color.RGBA{G: 0x72, B: 0xb2, A: 0xff}
	targetColor = color.Gray{Y: 0x20}
	gridColor   = color.Gray{Y: 0xdd}
)

func colorOf(server string) color.Color {
	if server == derper {
		return derperColor
	}
	return detourColor
}

func (f figure) draw(d *dataset, w io.Writer) error {
	p := plot.New()
	p.Title.Text = f.title
	p.Title.Padding = vg.Points(6)
	p.Legend.Top = true
	for _, s := range []*draw.TextStyle{
		&p.Title.TextStyle, &p.Legend.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label,
	} {
		s.Font.Variant = "Sans"
	}
	if err := f.fill(d, p); err != nil {
		return err
	}
	// Embedded fonts would make each file ten times as large; viewers have a sans-serif.
	c := vgsvg.New(figureWidth, f.height)
	p.Draw(draw.Crop(draw.New(c), vg.Points(6), -vg.Points(12), vg.Points(6), -vg.Points(6)))
	_, err := c.WriteTo(w)
	return err
}

// logAxis makes an axis logarithmic between two powers of ten.
func logAxis(a *plot.Axis, low, high float64) {
	a.Scale, a.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	a.Min, a.Max = low, high
}

// decades returns the powers of ten around a range of positive figures.
func decades(low, high float64) (below, above float64) {
	return math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
}

// bar is a rectangle between two data points, which plotter.BarChart cannot
// draw on a logarithmic axis, as its bars begin at 0.
type bar struct {
	x0, x1, y0, y1 float64
	fill           color.Color
}

// Plot draws the rectangle.
func (b bar) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	c.FillPolygon(b.fill, c.ClipPolygonXY([]vg.Point{
		{X: x(b.x0), Y: y(b.y0)}, {X: x(b.x1), Y: y(b.y0)}, {X: x(b.x1), Y: y(b.y1)}, {X: x(b.x0), Y: y(b.y1)},
	}))
}

// Thumbnail draws the rectangle's colour into the legend.
func (b bar) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(b.fill, []vg.Point{
		{X: c.Min.X, Y: c.Min.Y}, {X: c.Max.X, Y: c.Min.Y}, {X: c.Max.X, Y: c.Max.Y}, {X: c.Min.X, Y: c.Max.Y},
	})
}

const (
	barHalf  = 0.3   // half the width of a bar, of the distance between two
	markHalf = 0.4   // of a target's mark
	markWide = 1.015 // its thickness, as a factor on a logarithmic axis
)

// ratios has a bar for each target that is a ratio to derper, and a mark where
// the target is.
func ratios(d *dataset, p *plot.Plot) error {
	var names []string
	top := 10.0 // where the axis ends
	for _, t := range targets(d) {
		s := t.scores(d)
		if t.goal > timesMore || len(s) == 0 {
			continue
		}
		at := float64(-len(names))
		p.Add(bar{1, s.median(), at - barHalf, at + barHalf, detourColor})
		p.Add(bar{t.bound / markWide, t.bound * markWide, at - markHalf, at + markHalf, targetColor})
		names = append(names, fmt.Sprintf("%s: %sx", t.what, number(s.median())))
		_, above := decades(1, max(s.median(), t.bound))
		top = max(top, above)
	}
	ticks := make([]plot.Tick, len(names))
	for i, name := range names {
		ticks[i] = plot.Tick{Value: float64(-i), Label: name}
	}
	p.Y.Tick.Marker, p.Y.Tick.Length = plot.ConstantTicks(ticks), 0
	p.Y.Min, p.Y.Max = 0.5-float64(len(names)), 0.5
	logAxis(&p.X, 0.5, top)
	p.X.Label.Text = "times better"
	return nil
}

// latency has four bars for each load: p50 and p99 of both relays.
func latency(d *dataset, p *plot.Plot) error {
	runs := d.present(p99, "light", "20k-10", "w16-each", "w16-batched", "cores2")
	low, high := math.Inf(1), 0.0
	for _, run := range runs {
		for _, server := range []string{derper, detour} {
			low, high = min(low, d.all(run, server, p50).median()), max(high, d.all(run, server, p99).median())
		}
	}
	if len(runs) == 0 || low <= 0 {
		return nil // an empty plot
	}
	low, high = decades(low, high)
	for i, run := range runs {
		for j, b := range []struct {
			server string
			metric metric
		}{{derper, p50}, {detour, p50}, {derper, p99}, {detour, p99}} {
			const width = 0.2
			x := float64(i) + width*float64(j-2)
			shape := bar{x, x + 0.9*width, low, d.all(run, b.server, b.metric).median(), colorOf(b.server)}
			p.Add(shape)
			if i == 0 && j < 2 {
				p.Legend.Add(b.server, shape)
			}
		}
	}
	p.NominalX(runs...)
	p.X.Min, p.X.Max = -0.5, float64(len(runs))-0.5
	logAxis(&p.Y, low, high)
	p.Y.Label.Text = "us (median)"
	return nil
}

// goodput has a point for each run on one core that has a rate: what was
// delivered over what was sent.
func goodput(d *dataset, p *plot.Plot) error {
	runs := d.present(delivered, "light", "20k-10", "overload-x0.5", "overload-x1", "overload-x2", "overload-x10", "overload-open")
	var all []plotter.XY
	for _, server := range []string{derper, detour} {
		var points plotter.XYs
		for _, run := range runs {
			x, y := d.all(run, server, offered), d.all(run, server, delivered)
			if len(x) > 0 && x.median() > 0 && y.median() > 0 {
				points = append(points, plotter.XY{X: x.median(), Y: y.median()})
			}
		}
		if err := curve(p, server, points); err != nil {
			return err
		}
		all = append(all, points...)
	}
	p.X.Label.Text, p.Y.Label.Text = "sent, kpps", "delivered, kpps"
	p.Legend.Left = true
	logAround(p, all, true)
	return nil
}

// memory has a point for each number of idle peers.
func memory(d *dataset, p *plot.Plot) error {
	var all []plotter.XY
	for _, server := range []string{derper, detour} {
		var points plotter.XYs
		for _, run := range d.present(rssPerPeer, idleRuns(d)...) {
			points = append(points, plotter.XY{X: float64(peersOf(run)), Y: d.all(run, server, rssPerPeer).median()})
		}
		if err := curve(p, server, points); err != nil {
			return err
		}
		all = append(all, points...)
	}
	p.X.Label.Text, p.Y.Label.Text = "idle peers", "KB per peer"
	p.Y.Min = 0
	p.Y.Max *= 1.3 // room for the legend
	logAround(p, all, false)
	return nil
}

// curve adds a line with points, in the order of their X.
func curve(p *plot.Plot, server string, points plotter.XYs) error {
	if len(points) == 0 {
		return nil
	}
	slices.SortFunc(points, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
	line, marks, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, line.Width = colorOf(server), vg.Points(1.5)
	marks.Color, marks.Shape, marks.Radius = colorOf(server), draw.CircleGlyph{}, vg.Points(3)
	p.Add(line, marks)
	p.Legend.Add(server, line, marks)
	return nil
}

// logAround makes X logarithmic around all points, and Y too when asked, with a grid.
func logAround(p *plot.Plot, points []plotter.XY, y bool) {
	lowX, highX, lowY, highY := 1.0, 10.0, 1.0, 10.0
	for i, pt := range points {
		if i == 0 {
			lowX, highX, lowY, highY = pt.X, pt.X, pt.Y, pt.Y
		}
		lowX, highX, lowY, highY = min(lowX, pt.X), max(highX, pt.X), min(lowY, pt.Y), max(highY, pt.Y)
	}
	lowX, highX = decades(lowX, highX*1.01)
	logAxis(&p.X, lowX, highX)
	if y {
		lowY, highY = decades(lowY, highY*1.01)
		logAxis(&p.Y, lowY, highY)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColor, gridColor
	p.Add(grid)
}

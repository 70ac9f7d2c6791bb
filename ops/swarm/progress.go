package swarm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"waggle/ops"
)

const (
	tailLines = 40       // lines kept of each step's output
	lineLimit = 16 << 10 // bytes after which an unfinished line is printed
)

// progress turns BuildKit's trace of a build into lines. It is not safe for
// concurrent use.
type progress struct {
	log   func(string)
	steps map[string]*step // by digest
	last  string           // digest of the step that failed
}

// step is a vertex of the build's graph.
type step struct {
	number    int
	name      string
	started   time.Time
	completed time.Time // the end that was printed
	ended     bool      // the last line printed is how it went
	failed    bool
	partial   map[int64][]byte // by stream: output since the last newline
	at        time.Time        // when the last output was written
	tail      []string         // last lines of output
	statuses  map[string]bool  // that were printed
}

func newProgress(log func(string)) *progress {
	if log == nil {
		log = func(string) {}
	}
	return &progress{log: log, steps: map[string]*step{}}
}

// trace takes the aux part of a moby.buildkit.trace record: a JSON string with
// the base64 of a StatusResponse. A record may come without one.
func (p *progress) trace(aux json.RawMessage) error {
	if len(aux) == 0 {
		return nil
	}
	var encoded []byte
	if err := json.Unmarshal(aux, &encoded); err != nil {
		return ops.Errorf(ops.Internal, "The engine's build progress cannot be read: %w", err)
	}
	var status control.StatusResponse
	if err := proto.Unmarshal(encoded, &status); err != nil {
		return ops.Errorf(ops.Internal, "The engine's build progress cannot be read: %w", err)
	}
	for _, v := range status.Vertexes {
		p.begin(v)
	}
	for _, s := range status.Statuses {
		p.status(s)
	}
	for _, l := range status.Logs {
		p.output(l)
	}
	for _, w := range status.Warnings {
		if s := p.steps[w.Vertex]; s != nil {
			p.printf(s, "WARN: %s", plain(string(w.Short)))
		}
	}
	for _, v := range status.Vertexes {
		p.end(v)
	}
	return nil
}

func (p *progress) printf(s *step, format string, args ...any) {
	s.ended = false
	p.log(fmt.Sprintf("#%d %s", s.number, fmt.Sprintf(format, args...)))
}

// begin prints a step's name when it starts.
func (p *progress) begin(v *control.Vertex) {
	if v.Started == nil && !v.Cached {
		return
	}
	s := p.steps[v.Digest]
	if s == nil {
		s = &step{number: len(p.steps) + 1, name: plain(v.Name), partial: map[int64][]byte{}, statuses: map[string]bool{}}
		p.steps[v.Digest] = s
		p.printf(s, "%s", s.name)
	}
	s.started = asTime(v.Started)
}

// end prints how a step went, once for each time it ran.
func (p *progress) end(v *control.Vertex) {
	s := p.steps[v.Digest]
	if s == nil || v.Completed == nil || !asTime(v.Completed).After(s.completed) {
		return
	}
	s.completed = asTime(v.Completed)
	p.finish(s)
	switch {
	case strings.HasSuffix(v.Error, "context canceled"):
		p.printf(s, "CANCELED")
	case v.Error != "":
		s.failed, p.last = true, v.Digest
		p.printf(s, "ERROR: %s", plain(cleanBuild(v.Error)))
	case v.Cached:
		p.printf(s, "CACHED")
	case !s.ended: // BuildKit ends a step for each of its phases
		p.printf(s, "DONE %.1fs", s.completed.Sub(s.started).Seconds())
	}
	s.ended = true
}

// status prints a transfer or the like when it is complete.
func (p *progress) status(st *control.VertexStatus) {
	s := p.steps[st.Vertex]
	if s == nil || st.Completed == nil || s.statuses[st.ID] {
		return
	}
	s.statuses[st.ID] = true
	name := st.ID
	if name == "" {
		name = st.Name
	}
	size := ""
	if st.Current > 0 {
		size = " " + bytesOf(st.Current)
	}
	p.printf(s, "%s%s done", plain(name), size)
}

// output prints the whole lines that a step wrote.
func (p *progress) output(l *control.VertexLog) {
	s := p.steps[l.Vertex]
	if s == nil {
		return
	}
	s.at = asTime(l.Timestamp)
	buf := append(s.partial[l.Stream], l.Msg...)
	for {
		i := bytes.IndexByte(buf, '\n')
		if i < 0 {
			break
		}
		p.line(s, string(buf[:i]))
		buf = buf[i+1:]
	}
	if len(buf) > lineLimit {
		p.line(s, string(buf))
		buf = nil
	}
	s.partial[l.Stream] = append([]byte(nil), buf...)
}

// finish prints what a step wrote since its last newlines, stdout first.
func (p *progress) finish(s *step) {
	for _, stream := range slices.Sorted(maps.Keys(s.partial)) {
		if len(s.partial[stream]) > 0 {
			p.line(s, string(s.partial[stream]))
		}
	}
	clear(s.partial)
}

func (p *progress) line(s *step, text string) {
	text = plain(text)
	s.tail = append(s.tail, text)
	if over := len(s.tail) - tailLines; over > 0 {
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
	p.printf(s, "%.2f %s", max(0, s.at.Sub(s.started).Seconds()), text)
}

// flush prints the unfinished lines of all steps.
func (p *progress) flush() {
	for _, s := range p.steps {
		p.finish(s)
	}
}

// lastStep returns the name of the newest step and the end of its output.
func (p *progress) lastStep() (name, log string) {
	var last *step
	for _, s := range p.steps {
		if last == nil || s.number > last.number {
			last = s
		}
	}
	if last == nil {
		return "", ""
	}
	return last.name, strings.Join(last.tail, "\n")
}

// failing returns the name of the step that failed last and the end of its
// output.
func (p *progress) failing() (name, log string) {
	if s := p.steps[p.last]; s != nil && s.failed {
		return s.name, strings.Join(s.tail, "\n")
	}
	return "", ""
}

var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\^_])`)

// plain makes printable text of what a program wrote for a terminal: no
// colours, of an overwritten line only its last state.
func plain(s string) string {
	s = strings.TrimRight(strings.ToValidUTF8(s, "\uFFFD"), "\r\n")
	s = s[strings.LastIndexByte(s, '\r')+1:]
	s = escapes.ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

func asTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// bytesOf prints a number of bytes as the docker CLI does: 2.13kB.
func bytesOf(n int64) string {
	f, units := float64(n), []string{"B", "kB", "MB", "GB", "TB"}
	i := 0
	for ; f >= 1000 && i < len(units)-1; i++ {
		f /= 1000
	}
	return fmt.Sprintf("%.4g%s", f, units[i])
}

package simulate

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// The apps: one is linked to a repository and scaled, the other is only scaled.
const (
	pizza = "pizza"
	pasta = "pasta"
)

const (
	repo           = "git@git.example:acme/pizza.git"
	registryDomain = "reg.example"
	digest         = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
)

// point is a kind of failpoint. A fault fires before or after its nth occurrence.
type point string

const (
	pointRedis  point = "Redis write"
	pointSwarm  point = "swarm call"
	pointUpdate point = "service write"
	pointFinal  point = "final message"
	pointCommit point = "commit status"
)

// pointStep is a step of the mechanism, by its name.
func pointStep(name string) point { return point("step " + name) }

const (
	before = false
	after  = true
)

// action is what a fault does to the replica that reaches the failpoint.
type action string

const (
	kill  action = "kill"  // its process dies
	sleep action = "sleep" // its process is stopped for a while, and goes on
	hold  action = "hold"  // the one call takes a while, the rest of the process goes on
	lose  action = "lose"  // the write takes effect, and its answer is lost
)

type fault struct {
	point point
	nth   int
	after bool
	do    action
	long  time.Duration // of a sleep or a hold
	back  time.Duration // when a new replica takes the dead one's place

	struck bool
}

func (f fault) String() string {
	when := "before"
	if f.after {
		when = "after"
	}
	return fmt.Sprintf("%s %s %s %d", f.do, when, f.point, f.nth)
}

// outage is a period in which one part of the world is unreachable or slow.
type outage struct {
	part string // see the constants
	from time.Duration
	long time.Duration
}

const (
	partLeader = "leader" // calls take long and fail; a write may take effect
	partDocker = "Docker" // the engine is started again: calls fail at once
	partRedis  = "Redis"
	partSlack  = "Slack"
	partSlow   = "slow swarm"
)

// command is one request of the load.
type command struct {
	at   time.Duration
	what string // see the constants
	app  string
	n    int
	on   int // replica that is asked first
}

const (
	askScale    = "scale"
	askMore     = "scale by"
	askPush     = "push"
	askRollback = "rollback"
	askCancel   = "cancel" // of the operation that was asked for last
	byHandScale = "docker service scale"
	taskDies    = "task dies"
)

// plan is everything that the seed decides before the run: load, faults and outages.
type plan struct {
	seed     uint64
	commands []command
	faults   []*fault
	outages  []outage
	bad      map[int]bool // commits whose image fails
	ends     time.Duration
}

func seconds(r *rand.Rand, from, to float64) time.Duration {
	return time.Duration((from + r.Float64()*(to-from)) * float64(time.Second)).Round(time.Millisecond)
}

// newPlan draws a plan: few commands and mostly one fault, so that a failing history has one
// cause. The order of the draws is part of what a seed in testdata means.
func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 0x5eed))
	p := &plan{seed: seed, bad: map[int]bool{}}
	commits := 0
	at := seconds(r, 0.5, 3)
	busy := pizza // most of what happens is about one app, so that it meets
	if r.IntN(3) == 0 {
		busy = pasta
	}
	pushes := busy == pizza && r.IntN(4) > 0
	for range 2 + r.IntN(6) {
		c := command{at: at, app: busy, on: r.IntN(2)}
		if r.IntN(8) == 0 {
			c.app = pasta
		}
		switch k := r.IntN(20); {
		case pushes && k < 11:
			commits++
			c.what, c.app, c.n = askPush, pizza, commits
			p.bad[commits] = r.IntN(5) == 0
		case k == 11 && pushes:
			c.what, c.app = askRollback, pizza
		case k == 12:
			c.what = askCancel
		case k == 13:
			c.what, c.n = byHandScale, 1+r.IntN(5)
		case k == 14:
			c.what = taskDies
		case k == 15:
			c.what, c.n = askScale, 0
		case k == 16:
			c.what, c.n = askScale, 11+r.IntN(3) // above the limit
		case k <= 17:
			c.what, c.n = askMore, 1+r.IntN(2)
		default:
			c.what, c.n = askScale, 1+r.IntN(8)
		}
		p.commands = append(p.commands, c)
		switch r.IntN(3) {
		case 0:
			at += seconds(r, 0.1, 2)
		case 1:
			at += seconds(r, 2, 8)
		default:
			at += seconds(r, 6, 16)
		}
	}
	faults := []int{0, 1, 1, 1, 1, 2}[r.IntN(6)]
	for range faults {
		p.faults = append(p.faults, newFault(r, len(p.commands)))
	}
	if r.IntN(3) == 0 || faults == 0 {
		p.outages = append(p.outages, newOutage(r, at))
	}
	p.ends = at + 2*time.Second
	for _, o := range p.outages {
		p.ends = max(p.ends, o.from+o.long)
	}
	return p
}

func newFault(r *rand.Rand, commands int) *fault {
	f := &fault{after: r.IntN(2) == 0, long: seconds(r, 17, 40), back: seconds(r, 1, 20)}
	switch k := r.IntN(10); {
	case k < 4:
		f.do = kill
	case k < 7:
		f.do = sleep
	case k < 8:
		f.do = hold
	default:
		f.do, f.point, f.nth = lose, pointUpdate, 1+r.IntN(commands)
		return f
	}
	switch k := r.IntN(10); {
	case k < 3:
		f.point, f.nth = pointUpdate, 1+r.IntN(commands)
	case k < 5:
		f.point, f.nth = pointFinal, 1+r.IntN(commands)
	case k < 8:
		f.point, f.nth = pointRedis, 1+r.IntN(10*commands)
	case k < 9:
		f.point, f.nth = pointSwarm, 1+r.IntN(60*commands)
	default:
		f.point, f.nth = pointCommit, 1+r.IntN(2*commands)
	}
	return f
}

func newOutage(r *rand.Rand, ends time.Duration) outage {
	o := outage{from: time.Duration(r.Int64N(int64(ends)))}
	switch r.IntN(7) {
	case 5, 6:
		o.part, o.long = partDocker, seconds(r, 3, 20)
	case 0:
		o.part, o.long = partSlow, seconds(r, 5, 30)
	case 1:
		o.part, o.long = partRedis, seconds(r, 2, 45)
	case 2:
		o.part, o.long = partSlack, seconds(r, 5, 100)
	default:
		o.part, o.long = partLeader, seconds(r, 2, 25)
	}
	return o
}

func (p *plan) String() string {
	out := fmt.Sprintf("seed %d:", p.seed)
	for _, f := range p.faults {
		out += fmt.Sprintf(" [%s]", f)
	}
	for _, o := range p.outages {
		out += fmt.Sprintf(" [%s away from %s for %s]", o.part, o.from.Round(time.Second/10), o.long.Round(time.Second/10))
	}
	return out
}

// hash returns a number that depends on the seed and the words only. The next number of a
// generator would depend on the order in which goroutines draw.
func (p *plan) hash(words ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, p.seed)
	for _, w := range words {
		fmt.Fprint(h, "|", w)
	}
	return h.Sum64() >> 7
}

// commit returns the hash of commit n. Commits differ in the first characters, because image
// tags are made of them.
func commit(n int) string { return fmt.Sprintf("%07x%033x", 0xa000000+n, n) }

// commitOf returns the number of the commit that an image was built from, 0 for other images.
func commitOf(image string) int {
	var n int
	if _, err := fmt.Sscanf(shortImage(image), pizza+":%x", &n); err != nil || n < 0xa000000 {
		return 0
	}
	return n - 0xa000000
}

// shortImage returns an image as the history shows it: "pizza:a000001".
func shortImage(image string) string {
	i := slices.Index([]byte(image), '/') + 1
	image = image[i:]
	for j, c := range []byte(image) {
		if c == ':' {
			return image[:min(j+8, len(image))]
		}
	}
	return image
}

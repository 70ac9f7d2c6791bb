package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// gauge is what a soak holds flat.
type gauge struct {
	memory      int // of both replicas, in KB
	descriptors int
	keys        int64 // of Redis
}

func (c *cell) gauge() (g gauge) {
	for _, r := range c.replicas {
		pid := strconv.Itoa(r.current().Cmd.Process.Pid)
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		for line := range strings.Lines(string(status)) {
			if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
				g.memory += kb
			}
		}
		fds, _ := os.ReadDir("/proc/" + pid + "/fd")
		g.descriptors += len(fds)
	}
	g.keys, _ = c.rdb.DBSize(c.ctx).Result()
	return g
}

// soak looks at the gauges ten times. Records and jobs stay for a week, so the number of keys grows
// with what was asked for, and with nothing else.
func soak(c *cell, r *result, d time.Duration) error {
	var all []gauge
	var asked []int
	for range 10 {
		if err := pause(c.ctx, d/10); err != nil {
			return err
		}
		all = append(all, c.gauge())
		c.mu.Lock()
		asked = append(asked, len(c.changes))
		c.mu.Unlock()
	}
	first, last := all[2], all[len(all)-1]
	r.done = 1
	r.extra = fmt.Sprintf("memory %d → %d MB, descriptors %d → %d, Redis keys %d → %d for %d → %d operations", first.memory/1024, last.memory/1024,
		first.descriptors, last.descriptors, first.keys, last.keys, asked[2], asked[len(asked)-1])
	most := slices.MaxFunc(all[2:], func(a, b gauge) int { return a.descriptors - b.descriptors })
	switch grown := asked[len(asked)-1] - asked[2]; {
	case last.memory > first.memory*3/2+20<<10:
		return fmt.Errorf("grows: memory from %d to %d KB", first.memory, last.memory)
	case most.descriptors > first.descriptors+100:
		return fmt.Errorf("grows: descriptors from %d to %d", first.descriptors, most.descriptors)
	case last.keys > first.keys+int64(grown)*8+100:
		return fmt.Errorf("grows: Redis keys from %d to %d with %d operations", first.keys, last.keys, grown)
	}
	return nil
}

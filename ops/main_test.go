package ops_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain has more tests side by side than there are cores: they wait for sweeps, polls and
// deadlines most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

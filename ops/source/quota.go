package source

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"waggle/ops"
)

// look is how often a checkout that grows is measured, at most.
const look = 250 * time.Millisecond

// within returns a context that ends when what is below root takes more than the quota, with
// that as its cause. stop ends the watch, and gives that error too if there is too much now.
func (g *Git) within(ctx context.Context, root, name string) (_ context.Context, stop func() error) {
	if g.Quota <= 0 {
		return ctx, func() error { return nil }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		wait := look
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			began := time.Now()
			if sizeOf(ctx, root) > g.Quota {
				cancel(g.tooLarge(name))
				return
			}
			wait = max(look, 10*time.Since(began)) // a tree of very many files costs little, too
		}
	}()
	return ctx, func() error {
		cancel(nil)
		<-ended
		if sizeOf(context.WithoutCancel(ctx), root) > g.Quota {
			return g.tooLarge(name)
		}
		return nil
	}
}

func (g *Git) tooLarge(name string) error {
	return ops.Errorf(ops.Failed, "The checkout of %s takes more than %s on disk", name, units.BytesSize(float64(g.Quota))).
		Then("Take large files out of the repository, or raise git.max_size")
}

// block is what a file or directory takes at least: an empty one, too, has its entry.
const block = 4 << 10

// sizeOf is how much of the disk a directory takes, in bytes: what was written, or what is
// reserved for it if that is more. What vanishes meanwhile counts for nothing.
func sizeOf(ctx context.Context, root string) (total int64) {
	_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return ctx.Err()
		}
		var info os.FileInfo
		if info, err = d.Info(); err != nil {
			return nil
		}
		size := max(block, info.Size())
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			size = max(size, st.Blocks*512)
		}
		total += size
		return nil
	})
	return total
}

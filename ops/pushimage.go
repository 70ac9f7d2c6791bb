package ops

import (
	"context"
	"fmt"
)

// maxPushes is how often a push is tried while the registry does not answer.
const maxPushes = 5

// push pushes a tagged image and returns its digest. A registry that is down is
// waited for, a while.
func (r *Run) push(ctx context.Context, ref string, login RegistryLogin, detail func(string)) (digest string, err error) {
	wait := r.PushRetry
	for i := range maxPushes {
		if i > 0 {
			detail(fmt.Sprintf("%s did not take it; trying again in %s", login.Domain, wait))
			if err := pause(ctx, wait); err != nil {
				return "", err
			}
			wait *= 2
			detail("")
		}
		digest, err = r.Swarm.Push(ctx, ref, login.Auth, func(line string) { r.Log.Debug("push", "line", line) })
		if CodeOf(err) != Unavailable || ctx.Err() != nil {
			return digest, err
		}
		r.Log.Warn("the push failed", "image", ref, "try", i+1, "err", err)
	}
	return "", err
}

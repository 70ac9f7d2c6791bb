package ops

import "context"

// push pushes a tagged image and returns its digest. It is retried within BuildTimeout while the
// engine or the registry does not answer.
func (r *Run) push(ctx context.Context, ref string, login RegistryLogin) (digest string, err error) {
	err = r.whileAway(ctx, r.Now().Add(r.BuildTimeout), func(ctx context.Context) (err error) {
		digest, err = r.Swarm.Push(ctx, ref, login.Auth, func(line string) { r.Log.Debug("push", "line", line) })
		return err
	})
	return digest, err
}

package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// Target is one thing in the swarm that operations change. Two operations with a
// Target in common never apply at the same time: each Target is a lock in Redis.
type Target struct {
	Type string // app, node, machine, registry; or what there is only one of
	ID   string // canonical, whatever was typed: a service's name, a node's id; "" of what there is only one of
	Name string // for messages and the audit
}

func appTarget(name string) Target      { return Target{"app", name, name} }
func nodeTarget(n Node) Target          { return Target{"node", n.ID, n.Hostname} }
func registryTarget(name string) Target { return Target{"registry", name, name} }

// key names the Target in Redis: app/pizza.
func (t Target) key() string {
	if t.ID == "" {
		return t.Type
	}
	return t.Type + "/" + t.ID
}

func (t Target) lockKey() string { return "target:" + t.key() }

// Targets that there is only one of.
func allApps() Target  { return Target{"apps", "", "all apps"} } // what is set for all apps, not each of them
func allNodes() Target { return Target{"nodes", "", "all nodes"} }
func images() Target   { return Target{"images", "", "images"} } // those in the registries
func tokens() Target   { return Target{"tokens", "", "join tokens"} }

// managers is held by whatever changes which nodes are managers: two changes that
// are harmless one at a time could lose the quorum together.
func managers() Target { return Target{"managers", "", "the managers"} }

// pushDefault is the choice of the registry that built images are pushed to.
func pushDefault() Target { return Target{"default-registry", "", "the default push registry"} }

// What each operation locks. One that is not here changes the app that Run.app found,
// and nothing else.

// Locks implements Locker.
func (a *NodeAvailability) Locks() []Target { return []Target{nodeTarget(a.node)} }

// Locks implements Locker.
func (l *NodeLabel) Locks() []Target { return []Target{nodeTarget(l.node)} }

// Locks implements Locker.
func (r *NodeRole) Locks() []Target { return []Target{nodeTarget(r.node), managers()} }

// Locks implements Locker. A worker could become a manager right before the lock is
// taken, so the managers are locked for any node.
func (r *NodeRemove) Locks() []Target { return []Target{nodeTarget(r.node), managers()} }

// Locks implements Locker.
func (c *NodeClean) Locks() []Target {
	if c.Node == AllNodes {
		return []Target{allNodes()}
	}
	return []Target{nodeTarget(c.node)}
}

// Locks implements Locker. A machine has several addresses and one host key.
func (j *NodeJoin) Locks() []Target {
	out := []Target{{"machine", j.HostKey.Fingerprint, j.Server.Host}}
	if j.member != nil {
		out = append(out, nodeTarget(*j.member))
	}
	if j.Manager {
		out = append(out, managers())
	}
	return out
}

// Locks implements Locker.
func (*TokenRotation) Locks() []Target { return []Target{tokens()} }

// Locks implements Locker.
func (f *Freeze) Locks() []Target {
	if f.App == AllApps {
		return []Target{allApps()}
	}
	return []Target{appTarget(cmp.Or(f.svc.Name, f.App))}
}

// Locks implements Locker.
func (a *RegistryAdd) Locks() []Target { return []Target{registryTarget(a.Registry.Name)} }

// Locks implements Locker.
func (e *RegistryEdit) Locks() []Target { return []Target{registryTarget(e.Registry.Name)} }

// Locks implements Locker.
func (p *RegistryPush) Locks() []Target { return []Target{registryTarget(p.Name)} }

// Locks implements Locker.
func (r *RegistryRemove) Locks() []Target { return []Target{registryTarget(r.Name)} }

// Locks implements Locker.
func (d *RegistryDefault) Locks() []Target { return []Target{registryTarget(d.Name), pushDefault()} }

// Locks implements Locker. The registry's service is an app like any other to `/scale`.
func (s *RegistrySetup) Locks() []Target {
	return []Target{registryTarget(s.Name), appTarget(cmp.Or(s.service.Name, managedService))}
}

// Locks implements Locker. A prune must not delete an image that a migration has just
// found in the registry and not named yet: both hold the images.
func (m *RegistryMigrate) Locks() []Target { return []Target{images(), registryTarget(m.to.Name)} }

// Locks implements Locker. The registry is stopped meanwhile: a scale that starts it
// would damage its data.
func (p *RegistryPrune) Locks() []Target {
	return []Target{images(), registryTarget(p.reg.Name), appTarget(p.service.Name)}
}

// targets are what the operation changes, as its last Plan found it; the one that the
// operation is about comes first.
func (r *Run) targets() []Target {
	if l, ok := r.op.(Locker); ok {
		return l.Locks()
	}
	return []Target{appTarget(cmp.Or(r.target.Name, r.op.Target()))}
}

// nameTarget has the status, and so messages and the audit, name the target as the
// swarm does, not as it was typed.
func (r *Run) nameTarget() {
	name := cmp.Or(r.targets()[0].Name, r.op.Target())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Target = name
}

const (
	// lockPatience is how long a quick command waits for a lock before it is refused:
	// two of them in a row hold it for milliseconds.
	lockPatience = 3 * time.Second

	// lockWait is how long an operation that has to be done waits in its worker, before it is put
	// back into its queue.
	lockWait = 5 * time.Second

	firstLockRetry, lastLockRetry = 20 * time.Millisecond, 300 * time.Millisecond // doubled in between
)

// locks are the held locks of one operation.
type locks []*store.Lease

// Context ends when one of the locks is lost: each was taken under the context of
// the one before.
func (l locks) Context() context.Context { return l[len(l)-1].Context() }

// Release frees the locks.
func (l locks) Release() {
	for _, lease := range slices.Backward(l) {
		lease.Release()
	}
}

// errUnsettled says that an operation whose process died may have changed a Target, and has not come
// to its end. It is taken up within seconds, so everybody waits for that.
var errUnsettled = errors.New("interrupted")

// tryLock takes the locks of all targets, or none: then it returns the one that somebody
// else holds. They are taken in one order by everybody, so nobody is in a deadlock.
func (r *Runner) tryLock(ctx context.Context, run *Run, targets []Target) (held locks, other Target, err error) {
	targets = slices.SortedFunc(slices.Values(targets), func(a, b Target) int { return strings.Compare(a.lockKey(), b.lockKey()) })
	targets = slices.CompactFunc(targets, func(a, b Target) bool { return a.lockKey() == b.lockKey() })
	for _, t := range targets {
		lease, err := r.Store.Lock(ctx, t.lockKey(), r.claim(run))
		if err != nil {
			held.Release()
			return nil, t, err
		}
		held, ctx = append(held, lease), lease.Context()
		rec, busy, err := r.unsettled(ctx, t.key(), run)
		if busy {
			claim := store.Claim{ID: rec.ID, Owner: rec.Actor.String(), Reason: rec.Kind, Since: rec.At}
			err = fmt.Errorf("%w: %w", errUnsettled, &store.HeldError{Name: t.lockKey(), Claim: claim})
		}
		if err != nil {
			held.Release()
			return nil, t, err
		}
	}
	return held, Target{}, nil
}

// lock takes the locks of what the operation changes. When somebody holds one, it waits
// if it has to be done: it is approved, has slow work behind it, or has changed something
// before. Anything else waits for lockPatience and is refused then.
func (r *Runner) lock(ctx context.Context, run *Run, wait bool) (locks, error) {
	wait = wait || run.approved != nil || run.status.Decision != nil && run.status.Decision.Verdict == Approve
	began, retry, waited := r.Env.Now(), firstLockRetry, false
	for {
		targets := run.targets()
		held, other, err := r.tryLock(ctx, run, targets)
		theirs := new(store.HeldError)
		switch {
		case err == nil && !waited:
			run.locked(targets)
			return held, nil
		case err == nil:
			if err := run.planAgain(held.Context()); err != nil {
				if held.Context().Err() != nil {
					err = queue.ErrInterrupted // a lock was lost
				}
				held.Release()
				return nil, err
			}
			if slices.Equal(targets, run.targets()) {
				run.locked(targets)
				return held, nil
			}
			held.Release() // the name means another thing by now
			continue
		case !errors.As(err, &theirs):
			return nil, redisAway(err)
		}
		who := fmt.Sprintf("%s has been changing %s (%s) since %s", theirs.Owner, other.Name, theirs.Reason, clockTime(theirs.Since))
		wait = wait || errors.Is(err, errUnsettled)
		switch waits := r.Env.Now().Sub(began); {
		case wait && waits > lockWait:
			return nil, &notYet{who}
		case !wait && waits > lockPatience:
			return nil, Errorf(Locked, "%s", who).Then("Nothing was changed. Try again when that is done.")
		}
		if err := r.calledOff(ctx, run); err != nil {
			return nil, err
		}
		if !waited || run.status.Note != who {
			run.update(func(s *Status) { s.State, s.Note = Waiting, who })
		}
		waited = true
		if err := pause(ctx, retry); err != nil {
			return nil, err
		}
		retry = min(2*retry, lastLockRetry)
	}
}

// locked notes the names of what the operation has locked.
func (r *Run) locked(targets []Target) {
	r.locks = nil
	for _, t := range targets {
		r.locks = append(r.locks, t.key())
	}
}

// planAgain plans an operation that has waited for its locks: what it waited for may have
// changed what there is to do.
func (r *Run) planAgain(ctx context.Context) error {
	r.update(func(s *Status) { s.State, s.Note = Planning, "" })
	if _, slow := r.op.(Preparer); slow {
		return nil // it is planned again anyway
	}
	if err := r.plan(ctx); err != nil {
		return err
	}
	return r.needsApproval()
}

package ops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// releasesKept is how many releases the label holds.
const releasesKept = 10

// Release is one deployed version of an app, as the label waggle.releases holds
// it. The label and the image change in one update of the service, so the
// newest release is what the service runs.
type Release struct {
	Number int       `json:"number"`
	Image  string    `json:"image"` // with digest
	Commit string    `json:"commit"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	// Op is the operation that made it, by which that recognises it after a crash.
	Op string `json:"op,omitempty"`
	// From is the number of the release that this one went back to, 0 for others.
	From int `json:"from,omitempty"`
	// Before is the image that ran before, when that was no release: one given by
	// other hands.
	Before string `json:"before,omitempty"`
}

// what names the release's content, for people: its commit, or else its image.
func (r Release) what() string {
	if r.Commit != "" {
		return short(r.Commit)
	}
	return withoutDigest(r.Image)
}

// before is what a release that is made now has as its Before.
func (s Service) before(releases []Release) string {
	if len(releases) > 0 && releases[0].Image == s.Image || s.Labels[LabelReplicas] != "" {
		return ""
	}
	return s.Image
}

// Releases reads the app's releases, newest first.
func (s Service) Releases() ([]Release, error) {
	label := s.Labels[LabelReleases]
	if label == "" {
		return nil, nil
	}
	var out []Release
	if err := json.Unmarshal([]byte(label), &out); err != nil {
		return nil, Errorf(Invalid, "the label %s of %s is not what Waggle wrote there", LabelReleases, s.Name).
			Then("Remove it with `docker service update --label-rm %s %s`; the history starts anew.", LabelReleases, s.Name)
	}
	return out, nil
}

// neededImages are the images that the service runs or that `/rollback` may go back to. Without ok
// its releases can't be read.
func (s Service) neededImages() (images []string, ok bool) {
	releases, err := s.Releases()
	images = append(images, s.Image)
	for _, r := range releases {
		images = append(images, r.Image)
		if r.Before != "" {
			images = append(images, r.Before)
		}
	}
	return images, err == nil
}

// addRelease returns the label's value with one more release.
func addRelease(old []Release, r Release) (string, error) {
	all := append([]Release{r}, old...)
	if len(all) > releasesKept {
		all = all[:releasesKept]
	}
	b, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("encode releases: %w", err)
	}
	return string(b), nil
}

// attempt is what an operation is about to write as a release, kept before it is written.
type attempt struct {
	Version uint64    `json:"version"` // of the service that it was planned on
	Number  int       `json:"number"`  // of the release
	Image   string    `json:"image"`
	At      time.Time `json:"at"`
	// WentBack is when the service's last way back had begun by then.
	WentBack time.Time `json:"went_back,omitzero"`
}

// wentBack is when the service last went back to an earlier version; zero when its last update did not.
func (s Service) wentBack() time.Time {
	if strings.HasPrefix(s.Update.State, "rollback") {
		return s.Update.StartedAt
	}
	return time.Time{}
}

// ran says whether the swarm has made a task of the attempt's image since, which only its write can
// have led to. A task of before may be of the same image; the clocks of nodes may differ by skew.
func (r *Run) ran(ctx context.Context, svc Service, a *attempt) (bool, error) {
	const skew = time.Second
	if a == nil || svc.Version == a.Version {
		return false, nil
	}
	tasks, err := r.Swarm.Tasks(ctx, svc.ID, false)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(tasks, func(t Task) bool { return t.Image == a.Image && t.Created.After(a.At.Add(-skew)) }), nil
}

// before returns mine if the operation was begun by a version of Waggle that knew no attempts.
func (r *Run) before(a *attempt, mine func(Release) bool) func(Release) bool {
	if a == nil && r.resumed {
		return mine
	}
	return nil
}

// effectOf says how the release of an operation stands in the service. written says that it is known
// to have been written. mine, unless nil, recognises a release that an earlier version of Waggle has
// made, without an id.
//
// Its own release is found by the operation's id. A release that is not there either was never
// written, which the version index or an unchanged history tells; or the swarm has gone back, which
// takes the label back with the image; or newer ones have come.
func (s Service) effectOf(op string, a *attempt, written bool, releases []Release, mine func(Release) bool) Effect {
	for i, r := range releases {
		switch {
		case r.Op != op && !(r.Op == "" && mine != nil && mine(r)):
		case i > 0:
			return Effect{EffectSuperseded, releases[0].describe()}
		case s.Image != r.Image:
			return Effect{EffectSuperseded, "a change outside Waggle: image " + withoutDigest(s.Image)}
		default:
			return Effect{State: EffectCurrent}
		}
	}
	switch {
	case a == nil, s.Version == a.Version:
		return Effect{}
	case len(releases) > 0 && releases[0].Number >= a.Number:
		return Effect{EffectSuperseded, releases[0].describe()}
	case written, !s.wentBack().Equal(a.WentBack) && !s.wentBack().IsZero():
		return Effect{State: EffectTakenBack}
	}
	return Effect{}
}

// describe names a release and who made it.
func (r Release) describe() string {
	return fmt.Sprintf("release %d (%s, %s)", r.Number, r.what(), r.By)
}

package ops

import (
	"encoding/json"
	"fmt"
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

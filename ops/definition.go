package ops

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

const (
	captainFile = "captain-definition"
	maxCaptain  = 64 << 10 // bytes; CapRover's own are a few hundred
)

// definition is how the files of a commit become an image.
type definition struct {
	Context    string // directory
	Dockerfile string // path in it
	Text       string // the Dockerfile itself, instead
	Image      string // nothing is built
}

// define finds out how to build what is in dir: as the labels of the service say;
// else as a captain-definition says, at the root; else from ./Dockerfile.
func (s Service) define(dir string) (definition, error) {
	d := definition{Context: s.Labels[LabelContext], Dockerfile: s.Labels[LabelDockerfile]}
	if d.Context != "" || d.Dockerfile != "" {
		return d, nil
	}
	// Nothing that a link leads to outside of it is opened.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return d, &Error{Code: Internal, Sentence: "The checkout cannot be read", Err: err}
	}
	defer root.Close()
	text, err := readCaptain(root)
	if err == nil {
		return parseCaptain(text)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return d, &Error{Code: Invalid, Sentence: "The file captain-definition cannot be read: it is no plain file of at most 64 kB in the repository", Err: err}
	}
	if _, err := root.Lstat("Dockerfile"); err != nil {
		return d, Errorf(Failed, "There is neither a captain-definition nor a Dockerfile at the root of the repository").
			Then("Add one, or say where the Dockerfile is: `/app set %s dockerfile=path/to/Dockerfile`.", s.Name)
	}
	return d, nil
}

func readCaptain(root *os.Root) ([]byte, error) {
	// Looked at before it is opened: opening a pipe would wait for a writer.
	info, err := root.Stat(captainFile)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCaptain {
		return nil, errors.New("not a plain file, or too large")
	}
	f, err := root.Open(captainFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCaptain))
}

// parseCaptain reads CapRover's captain-definition, of which it takes
// schemaVersion 2: dockerfilePath, dockerfileLines or imageName.
// Source: https://caprover.com/docs/captain-definition-file.html
func parseCaptain(text []byte) (definition, error) {
	bad := func(format string, args ...any) (definition, error) {
		return definition{}, Errorf(Invalid, "The captain-definition %s", fmt.Sprintf(format, args...)).
			Then("It is JSON with schemaVersion 2 and one of dockerfilePath, dockerfileLines and imageName.")
	}
	var c struct {
		SchemaVersion   json.Number `json:"schemaVersion"`
		DockerfilePath  string      `json:"dockerfilePath"`
		DockerfileLines []string    `json:"dockerfileLines"`
		ImageName       string      `json:"imageName"`
		TemplateID      string      `json:"templateId"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return bad("is not JSON as it should be: %s", err)
	}
	if c.SchemaVersion != "2" {
		return bad("has schemaVersion %q", c.SchemaVersion)
	}
	if c.TemplateID != "" {
		return definition{}, Errorf(Invalid, "The captain-definition has the templateId %s, and those templates are CapRover's own", c.TemplateID).
			Then("Write the Dockerfile of the template into the repository and name it: {\"schemaVersion\": 2, \"dockerfilePath\": \"./Dockerfile\"}.")
	}
	given := 0
	for _, is := range []bool{c.DockerfilePath != "", len(c.DockerfileLines) > 0, c.ImageName != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return bad("says %d ways to make the image", given)
	}
	switch {
	case c.ImageName != "":
		return definition{Image: c.ImageName}, CheckImage(c.ImageName)
	case len(c.DockerfileLines) > 0:
		return definition{Text: strings.Join(c.DockerfileLines, "\n") + "\n"}, nil
	}
	// The build checks that it stays inside.
	return definition{Dockerfile: strings.TrimPrefix(path.Clean(c.DockerfilePath), "/")}, nil
}

// buildArgs are the arguments that the service's labels declare.
func (s Service) buildArgs() map[string]string {
	args := map[string]string{}
	for k, v := range s.Labels {
		if name, ok := strings.CutPrefix(k, LabelBuildArg); ok && name != "" {
			args[name] = v
		}
	}
	return args
}

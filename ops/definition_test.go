package ops

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDefine(t *testing.T) {
	captain := func(text string) map[string]string {
		return map[string]string{captainFile: text, "Dockerfile": "FROM scratch"}
	}
	for name, tc := range map[string]struct {
		files  map[string]string
		labels map[string]string
		want   definition
		err    string
	}{
		"a Dockerfile":         {files: map[string]string{"Dockerfile": ""}},
		"nothing":              {files: map[string]string{"x": ""}, err: "There is neither a captain-definition nor a Dockerfile at the root of the repository"},
		"labels come first":    {files: captain("nonsense"), labels: map[string]string{LabelDockerfile: "a/b"}, want: definition{Dockerfile: "a/b"}},
		"the context alone":    {files: captain("nonsense"), labels: map[string]string{LabelContext: "a"}, want: definition{Context: "a"}},
		"a path":               {files: captain(`{"schemaVersion": 2, "dockerfilePath": "./docker/Dockerfile"}`), want: definition{Dockerfile: "docker/Dockerfile"}},
		"a path from the root": {files: captain(`{"schemaVersion": 2, "dockerfilePath": "/Dockerfile"}`), want: definition{Dockerfile: "Dockerfile"}},
		"a path outside":       {files: captain(`{"schemaVersion": 2, "dockerfilePath": "../x"}`), want: definition{Dockerfile: "../x"}}, // the build refuses it
		"lines":                {files: captain(`{"schemaVersion": 2, "dockerfileLines": ["FROM scratch", "COPY . /"]}`), want: definition{Text: "FROM scratch\nCOPY . /\n"}},
		"an image":             {files: captain(`{"schemaVersion": 2, "imageName": "nginx:1.27"}`), want: definition{Image: "nginx:1.27"}},
		"no image's name":      {files: captain(`{"schemaVersion": 2, "imageName": "-x"}`), err: `"-x" is no image`},
		"a template":           {files: captain(`{"schemaVersion": 2, "templateId": "node/8.7.0"}`), err: "The captain-definition has the templateId node/8.7.0, and those templates are CapRover's own"},
		"an older schema":      {files: captain(`{"schemaVersion": 1, "templateId": "node/8"}`), err: `The captain-definition has schemaVersion "1"`},
		"two ways":             {files: captain(`{"schemaVersion": 2, "imageName": "a", "dockerfilePath": "b"}`), err: "The captain-definition says 2 ways to make the image"},
		"no way":               {files: captain(`{"schemaVersion": 2}`), err: "The captain-definition says 0 ways"},
		"no JSON":              {files: captain(`FROM scratch`), err: "The captain-definition is not JSON"},
		"huge":                 {files: captain(strings.Repeat(" ", maxCaptain+1)), err: "The file captain-definition cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Service{Name: "pizza", Labels: tc.labels}.define(dir)
			switch {
			case tc.err == "" && err != nil, tc.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.err)):
				t.Errorf("error %v, want %q", err, tc.err)
			case tc.err == "" && got != tc.want:
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestDefineOpensNothingOutside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte(`{"schemaVersion": 2, "imageName": "canary"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"a link out of the tree": func(path string) error { return os.Symlink(outside, path) },
		"a link to itself":       func(path string) error { return os.Symlink(captainFile, path) },
		"a pipe":                 func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory":            func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := make(filepath.Join(dir, captainFile)); err != nil {
				t.Fatal(err)
			}
			got, err := Service{}.define(dir)
			if CodeOf(err) != Invalid || got.Image != "" || strings.Contains(err.Error(), "canary") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func FuzzParseCaptain(f *testing.F) {
	f.Add([]byte(`{"schemaVersion": 2, "dockerfilePath": "./Dockerfile"}`))
	f.Add([]byte(`{"schemaVersion": "2", "dockerfileLines": ["FROM x"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseCaptain(text)
		if err == nil && d == (definition{}) {
			t.Errorf("%q is taken, and means nothing", text)
		}
	})
}

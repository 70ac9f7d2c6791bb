package lab

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Image is an image to push to a lab's registry without an engine: the base
// image with these settings and files. The zero value is the base image, which
// sleeps until it is stopped.
type Image struct {
	Entrypoint []string
	Cmd        []string
	Env        []string
	Labels     map[string]string
	Files      map[string]string // path in the image to content
}

// Push makes the image and pushes it under name, such as "pizza:2". It returns
// the reference to run it by, and its digest.
func (r *Registry) Push(ctx context.Context, name string, img Image) (ref, digest string, err error) {
	base, err := busyboxLayer()
	if err != nil {
		return "", "", fmt.Errorf("making image %s: %w", name, err)
	}
	layers := [][]byte{base}
	if len(img.Files) > 0 {
		layers = append(layers, fileLayer(img.Files))
	}
	repo, tag, ok := strings.Cut(name, ":")
	if !ok {
		tag = "latest"
	}
	digest, err = r.pushLayers(ctx, repo, tag, img, layers)
	if err != nil {
		return "", "", fmt.Errorf("pushing image %s to %s: %w", name, r.Addr, err)
	}
	return r.Addr + "/" + repo + ":" + tag, digest, nil
}

type blob struct {
	MediaType string `json:"mediaType"`
	Size      int    `json:"size"`
	Digest    string `json:"digest"`
}

func (r *Registry) pushLayers(ctx context.Context, repo, tag string, img Image, layers [][]byte) (string, error) {
	const docker = "application/vnd.docker."
	var (
		blobs   []blob
		diffs   []string
		history []map[string]string
		created = time.Unix(0, 0).UTC().Format(time.RFC3339) // the same image has the same digest
	)
	for _, l := range layers {
		var z bytes.Buffer
		w, _ := gzip.NewWriterLevel(&z, gzip.BestSpeed)
		_, _ = w.Write(l) // a bytes.Buffer takes everything
		_ = w.Close()
		b, err := r.pushBlob(ctx, repo, docker+"image.rootfs.diff.tar.gzip", z.Bytes())
		if err != nil {
			return "", err
		}
		blobs = append(blobs, b)
		diffs = append(diffs, digestOf(l))
		history = append(history, map[string]string{"created": created, "created_by": "lab"})
	}
	cmd := img.Cmd
	if cmd == nil {
		cmd = []string{"sleep", "infinity"}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": created,
		"config": map[string]any{
			"Env": append([]string{"PATH=/bin"}, img.Env...), "Entrypoint": img.Entrypoint, "Cmd": cmd, "Labels": img.Labels, "WorkingDir": "/",
			// A shell as process 1 ignores SIGTERM: without this, every stop takes 10 s.
			"StopSignal": "SIGKILL",
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": diffs},
		"history": history,
	})
	if err != nil {
		return "", err
	}
	c, err := r.pushBlob(ctx, repo, docker+"container.image.v1+json", config)
	if err != nil {
		return "", err
	}
	const manifestType = docker + "distribution.manifest.v2+json"
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": c, "layers": blobs,
	})
	if err != nil {
		return "", err
	}
	_, err = r.do(ctx, http.MethodPut, r.url("/v2/"+repo+"/manifests/"+tag), manifestType, manifest, http.StatusCreated)
	return digestOf(manifest), err
}

func (r *Registry) pushBlob(ctx context.Context, repo, mediaType string, data []byte) (blob, error) {
	b := blob{MediaType: mediaType, Size: len(data), Digest: digestOf(data)}
	if _, err := r.do(ctx, http.MethodHead, r.url("/v2/"+repo+"/blobs/"+b.Digest), "", nil, http.StatusOK); err == nil {
		return b, nil
	}
	start := r.url("/v2/" + repo + "/blobs/uploads/")
	h, err := r.do(ctx, http.MethodPost, start, "", nil, http.StatusAccepted)
	if err != nil {
		return b, err
	}
	to, err := url.Parse(h.Get("Location"))
	if err != nil {
		return b, fmt.Errorf("upload location: %w", err)
	}
	q := to.Query()
	q.Set("digest", b.Digest)
	to.RawQuery = q.Encode()
	_, err = r.do(ctx, http.MethodPut, to.String(), "application/octet-stream", data, http.StatusCreated)
	return b, err
}

// do makes one request of the registry's API and wants exactly this status.
func (r *Registry) do(ctx context.Context, method, to, contentType string, body []byte, want int) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if r.User != "" {
		req.SetBasicAuth(r.User, r.Password)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
	if resp.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s %s", method, req.URL.Path, resp.Status, strings.TrimSpace(string(text)))
	}
	return resp.Header, nil
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// applets of the base image; busybox has more, but these are what tests and
// demo applications use. (Debian's static wget crashes with -T: use timeout.)
var applets = strings.Fields(`
	ash awk basename cat chmod chown cp cut date dd df dirname du echo env expr false find grep gunzip gzip
	head hostname httpd id ifconfig ip kill killall less ln ls md5sum mkdir mktemp mv nc netstat nproc
	nslookup ping printf ps pwd readlink rm rmdir route sed seq sh sha256sum sleep sort stat sync tail tar tee
	test timeout top touch tr true tty uname uniq uptime usleep vi wc wget which whoami xargs yes`)

// busyboxLayer is the file system of the base image: a static busybox.
func busyboxLayer() ([]byte, error) {
	path, err := lookPath("busybox")
	if err != nil {
		return nil, err
	}
	bin, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading busybox: %w", err)
	}
	l := newLayer()
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "sys", "usr", "var", "www"} {
		l.add(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, nil)
	}
	l.add(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	l.link("usr/bin", "../bin")
	l.link("sbin", "bin")
	l.file("bin/busybox", 0o755, bin)
	for _, a := range applets {
		l.link("bin/"+a, "busybox")
	}
	l.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	l.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	return l.done(), nil
}

// fileLayer puts files into the image. What is in a bin directory, or starts
// as a script or a program does, can be run.
func fileLayer(files map[string]string) []byte {
	l := newLayer()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := fs.FileMode(0o644)
		if strings.Contains(name, "bin/") || strings.HasPrefix(files[name], "#!") || strings.HasPrefix(files[name], "\x7fELF") {
			mode = 0o755
		}
		l.file(strings.TrimPrefix(name, "/"), mode, []byte(files[name]))
	}
	return l.done()
}

type layer struct {
	buf bytes.Buffer
	tar *tar.Writer
}

func newLayer() *layer {
	l := &layer{}
	l.tar = tar.NewWriter(&l.buf)
	return l
}

// add cannot fail: the sizes are right and the buffer takes everything.
func (l *layer) add(h *tar.Header, data []byte) {
	h.Size = int64(len(data))
	h.ModTime = time.Unix(0, 0)
	_ = l.tar.WriteHeader(h)
	_, _ = l.tar.Write(data)
}

func (l *layer) file(name string, mode fs.FileMode, data []byte) {
	l.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode)}, data)
}

func (l *layer) link(name, to string) {
	l.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

func (l *layer) done() []byte {
	_ = l.tar.Close()
	return l.buf.Bytes()
}

package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Registry is a docker-registry on the lab's bridge. It can be reached from
// the engines and from this machine, over plain HTTP. Deletes are enabled.
type Registry struct {
	Addr           string // host:port, the first part of an image reference
	User, Password string // empty for the one that lets everybody in

	dir    string
	client *http.Client
	record func(*proc) error
	proc   *proc
}

// Image returns the reference of an image in this registry.
func (r *Registry) Image(name string) string { return r.Addr + "/" + name }

func (r *Registry) url(path string) string { return "http://" + r.Addr + path }

// Start starts the registry with what was pushed to it before.
func (r *Registry) Start(ctx context.Context) error {
	if r.proc != nil && r.proc.running() {
		return nil
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("starting a registry: %w", err)
	}
	auth := ""
	if r.User != "" {
		// The cheapest hash there is: every request is checked.
		hash, err := bcrypt.GenerateFromPassword([]byte(r.Password), bcrypt.MinCost)
		if err != nil {
			return fmt.Errorf("hashing the registry's password: %w", err)
		}
		file := filepath.Join(r.dir, "htpasswd")
		if err := os.WriteFile(file, []byte(r.User+":"+string(hash)+"\n"), 0o600); err != nil {
			return fmt.Errorf("starting a registry: %w", err)
		}
		auth = fmt.Sprintf("auth: {htpasswd: {realm: lab, path: %s}}\n", file)
	}
	config := filepath.Join(r.dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\n"+
		"http: {addr: %q}\n%s", filepath.Join(r.dir, "data"), r.Addr, auth)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("starting a registry: %w", err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Env, cmd.Dir = cleanEnv(), r.dir
	p, err := startProc("docker-registry on "+r.Addr, cmd, filepath.Join(r.dir, "log"))
	if err != nil {
		return err
	}
	r.proc = p
	if err := r.record(p); err != nil {
		return err
	}
	return p.until(ctx, 10*time.Second, func(ctx context.Context) error {
		_, err := r.do(ctx, http.MethodGet, r.url("/v2/"), "", nil, http.StatusOK)
		return err
	})
}

// Stop stops the registry: pushes and pulls are refused until Start.
func (r *Registry) Stop() {
	if r.proc != nil {
		r.proc.stop(syscall.SIGKILL, 5*time.Second)
	}
	r.client.CloseIdleConnections()
}

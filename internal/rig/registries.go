package rig

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"

	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/swarm"
)

// SecretKey returns a new secret_key.
func SecretKey() string {
	b := make([]byte, secret.KeySize)
	_, _ = rand.Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}

// Registry is one that a Waggle is to know from its start.
type Registry struct {
	Name, Domain, Prefix string
	User, Password       string
	Push                 bool
}

// SetRegistries makes these the swarm's registries, in place of all others, as
// Waggle itself would with that secret_key. The first that may be pushed to is
// the default.
func SetRegistries(ctx context.Context, dockerHost, secretKey string, list ...Registry) error {
	b, err := base64.StdEncoding.DecodeString(secretKey)
	if err != nil {
		return fmt.Errorf("secret_key: %w", err)
	}
	key, err := secret.NewKey(b)
	if err != nil {
		return fmt.Errorf("secret_key: %w", err)
	}
	client, err := swarm.Dial(swarm.Options{Host: dockerHost})
	if err != nil {
		return err
	}
	defer client.Close()
	rs, err := ops.ReadRegistries(ctx, client)
	if err != nil {
		return err
	}
	rs.List, rs.Default = nil, ""
	for _, l := range list {
		r := ops.Registry{Name: l.Name, Domain: l.Domain, Prefix: l.Prefix, Username: l.User, Push: l.Push}
		if err := r.Seal(key, secret.Text(l.Password)); err != nil {
			return err
		}
		if rs, err = rs.Add(r); err != nil {
			return err
		}
	}
	return ops.SaveRegistries(ctx, client, rs, slog.New(slog.DiscardHandler))
}

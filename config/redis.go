package config

import (
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Embedded says whether no Redis is set and the embedded one is to be used.
func (r Redis) Embedded() bool { return r.URL.Empty() }

// Options returns the options for redis.NewUniversalClient, or nil when the
// embedded Redis is to be used. One host is a single server, several are a
// cluster, and the -sentinel schemes name the Sentinels of one master. The
// query takes go-redis's own options (dial_timeout=3s, pool_size=20…).
//
// go-redis has a parser for each of the three, which disagree on whose password
// it is and do not know hosts with commas; so the hosts are taken apart here and
// the rest is left to redis.ParseURL. Errors never cite the URL: it may hold a
// password.
func (r Redis) Options() (*redis.UniversalOptions, error) {
	if r.Embedded() {
		return nil, nil
	}
	scheme, rest, ok := strings.Cut(strings.TrimSpace(r.URL.Reveal()), "://")
	base, sentinel := strings.CutSuffix(scheme, "-sentinel")
	if !ok || base != "redis" && base != "rediss" {
		return nil, errors.New("must begin with redis://, rediss://, redis-sentinel:// or rediss-sentinel://")
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	at := strings.LastIndexByte(authority, '@') + 1
	user, hosts := authority[:at], strings.Split(authority[at:], ",")

	port := "6379"
	if sentinel {
		port = "26379"
	}
	addrs := make([]string, len(hosts))
	for i, host := range hosts {
		u, err := url.Parse("redis://" + host)
		if err != nil || u.Hostname() == "" || u.Host != host {
			return nil, errors.New("has no readable host: write host:port, several separated by commas, and special characters of the password percent-encoded")
		}
		if addrs[i] = net.JoinHostPort(u.Hostname(), u.Port()); u.Port() == "" {
			addrs[i] = net.JoinHostPort(u.Hostname(), port)
		}
	}

	path, query, _ := strings.Cut(tail, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("has options after ? that cannot be read: write them as name=value&name=value")
	}
	var master, sentinelUser, sentinelPassword string
	if sentinel {
		take := func(name string) string {
			value := q.Get(name)
			q.Del(name)
			return value
		}
		if master = take("master"); master == "" {
			return nil, errors.New("does not name the master that the Sentinels watch: add ?master=NAME")
		}
		sentinelUser, sentinelPassword = take("sentinel_username"), take("sentinel_password")
	}
	o, err := redis.ParseURL(base + "://" + user + addrs[0] + path + "?" + q.Encode())
	if err != nil {
		return nil, errors.New("cannot be used: write redis://user:password@host:port/0, the database a number, special characters of the password percent-encoded, and after ? only options that go-redis knows")
	}
	if len(addrs) > 1 && !sentinel && o.DB != 0 {
		return nil, errors.New("names a database other than 0, which a cluster does not have: end it with /0, or name one host")
	}
	if o.TLSConfig != nil && (len(addrs) > 1 || sentinel) {
		o.TLSConfig.ServerName = "" // each host answers with its own name
	}
	return &redis.UniversalOptions{
		Addrs: addrs, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
		MasterName: master, SentinelUsername: sentinelUser, SentinelPassword: sentinelPassword,
		Protocol: o.Protocol, ClientName: o.ClientName,
		MaxRetries: o.MaxRetries, MinRetryBackoff: o.MinRetryBackoff, MaxRetryBackoff: o.MaxRetryBackoff,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		PoolFIFO: o.PoolFIFO, PoolSize: o.PoolSize, PoolTimeout: o.PoolTimeout,
		MinIdleConns: o.MinIdleConns, MaxIdleConns: o.MaxIdleConns, MaxActiveConns: o.MaxActiveConns,
		MaxConcurrentDials: o.MaxConcurrentDials, PipelinePoolSize: o.PipelinePoolSize,
		PipelineReadBufferSize: o.PipelineReadBufferSize, PipelineWriteBufferSize: o.PipelineWriteBufferSize,
		ConnMaxIdleTime: o.ConnMaxIdleTime, ConnMaxLifetime: o.ConnMaxLifetime, ConnMaxLifetimeJitter: o.ConnMaxLifetimeJitter,
	}, nil
}

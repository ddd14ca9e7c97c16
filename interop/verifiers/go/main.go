// Answers, one JSON object a line, whether a verifier written in Go accepts a token.
//
// Each {verifier, instance} pair has a cache of its own, filled by its own fetches of the set, and
// every verifier keeps its default settings. The protocol is told in ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"runtime/debug"
	"sync"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/httprc/v3"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	jwxt "github.com/lestrrat-go/jwx/v3/jwt"
)

type setUp struct{ jwksURI, clientID, audience string }

type verify func(ctx context.Context, token string) error

func goOIDC(ctx context.Context, s setUp) (verify, error) {
	// The token stands for an ID token: its issuer is the issuer, its audience the relying party.
	config := &oidc.Config{ClientID: s.audience, SupportedSigningAlgs: []string{oidc.ES256}}
	verifier := oidc.NewVerifier(s.clientID, oidc.NewRemoteKeySet(ctx, s.jwksURI), config)
	return func(ctx context.Context, token string) error {
		_, err := verifier.Verify(ctx, token)
		return err
	}, nil
}

func keyfuncKeys(ctx context.Context, s setUp) (verify, error) {
	keys, err := keyfunc.NewDefaultCtx(ctx, []string{s.jwksURI})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, token string) error {
		_, err := jwt.Parse(token, keys.KeyfuncCtx(ctx), jwt.WithValidMethods([]string{"ES256"}),
			jwt.WithIssuer(s.clientID), jwt.WithAudience(s.audience))
		return err
	}, nil
}

func jwxCache(options ...any) func(context.Context, setUp) (verify, error) {
	return func(ctx context.Context, s setUp) (verify, error) {
		cache, err := jwk.NewCache(ctx, httprc.NewClient())
		if err != nil {
			return nil, err
		}
		if err := cache.Register(ctx, s.jwksURI); err != nil {
			return nil, err
		}
		keys, err := cache.CachedSet(s.jwksURI)
		if err != nil {
			return nil, err
		}
		return func(_ context.Context, token string) error {
			_, err := jwxt.Parse([]byte(token), jwxt.WithKeySet(keys, options...),
				jwxt.WithIssuer(s.clientID), jwxt.WithAudience(s.audience))
			return err
		}, nil
	}
}

type verifier struct {
	name, module string
	open         func(context.Context, setUp) (verify, error)
}

var verifiers = []verifier{
	{"go-oidc", "github.com/coreos/go-oidc/v3", goOIDC},
	{"keyfunc", "github.com/MicahParks/keyfunc/v3", keyfuncKeys},
	{"jwx", "github.com/lestrrat-go/jwx/v3", jwxCache()},
	// jwx leaves it to the caller whether a token needs a kid.
	{"jwx, kid optional", "github.com/lestrrat-go/jwx/v3", jwxCache(jws.WithRequireKid(false))},
}

type question struct {
	ID       int    `json:"id"`
	Verifier string `json:"verifier"`
	Instance string `json:"instance"`
	Token    string `json:"token"`
}

type answer struct {
	ID       int    `json:"id"`
	Accepted bool   `json:"accepted"`
	Error    string `json:"error,omitempty"`
}

type named struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	From    string `json:"from"`
}

type instance struct {
	once   sync.Once
	verify verify
	err    error
}

func main() {
	ctx := context.Background()
	s := setUp{os.Args[1], os.Args[2], os.Args[3]}
	var saying sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(line any) {
		saying.Lock()
		defer saying.Unlock()
		_ = out.Encode(line)
	}
	say(map[string]any{"verifiers": names()})

	var opening sync.Mutex
	instances := map[string]*instance{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			panic(err)
		}
		go func() {
			opening.Lock()
			key := q.Verifier + "/" + q.Instance
			if instances[key] == nil {
				instances[key] = new(instance)
			}
			it := instances[key]
			opening.Unlock()
			it.once.Do(func() { it.verify, it.err = open(ctx, q.Verifier, s) })
			err := it.err
			if err == nil {
				err = it.verify(ctx, q.Token)
			}
			if err != nil {
				say(answer{q.ID, false, err.Error()})
				return
			}
			say(answer{q.ID, true, ""})
		}()
	}
}

func open(ctx context.Context, name string, s setUp) (verify, error) {
	for _, v := range verifiers {
		if v.name == name {
			return v.open(ctx, s)
		}
	}
	panic("no such verifier: " + name)
}

func names() []named {
	versions := map[string]string{}
	if built, ok := debug.ReadBuildInfo(); ok {
		for _, module := range built.Deps {
			versions[module.Path] = module.Version
		}
	}
	var list []named
	for _, v := range verifiers {
		list = append(list, named{v.name, versions[v.module], "Go"})
	}
	return list
}

package apiserver

import (
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"

	"kontiki/apiserver/tokens"
)

// newIssuer makes the issuer of service account tokens, what believes them and
// what serves requests for them; all are nil without a key.
func newIssuer(cfg Config, client kubernetes.Interface) (*tokens.Issuer, authenticator.Token, rest.Storage, error) {
	if cfg.ServiceAccountKey == nil {
		return nil, nil, nil, nil
	}
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	issuer, err := tokens.New(cfg.ServiceAccountKey, client, now)
	if err != nil {
		return nil, nil, nil, err
	}
	return issuer, issuer, issuer.REST(), nil
}

// discoverIssuer tells others how to check tokens.
func discoverIssuer(server *genericapiserver.GenericAPIServer, issuer *tokens.Issuer) error {
	if issuer == nil {
		return nil
	}
	handlers, err := issuer.Discovery()
	if err != nil {
		return err
	}
	for path, handler := range handlers {
		server.Handler.NonGoRestfulMux.Handle(path, handler)
	}
	return nil
}

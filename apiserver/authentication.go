package apiserver

import (
	stdx509 "crypto/x509"
	"net/http"
	"slices"
	"time"

	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"

	"kontiki/apiserver/tokens"
)

// publicPaths are open to everybody, so that load balancers and people without
// credentials can see whether a node lives.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}

// apiAudiences are what a token must be meant for to be one of this API's.
var apiAudiences = authenticator.Audiences{tokens.URL}

// newAuthenticator tells who sends a request: the context of requests made in
// this process, a client certificate, a
// token, or nobody, who sees publicPaths only.
func newAuthenticator(clientCA func() *stdx509.CertPool, now func() time.Time, bearer authenticator.Token) authenticator.Request {
	authenticators := []authenticator.Request{authenticator.RequestFunc(fromContext)}
	if clientCA != nil {
		verify := func() (stdx509.VerifyOptions, bool) {
			options := x509.DefaultVerifyOptions()
			options.Roots = clientCA()
			if now != nil {
				options.CurrentTime = now()
			}
			return options, options.Roots != nil
		}
		authenticators = append(authenticators, x509.NewDynamic(verify, x509.CommonNameUserConversion))
	}
	if bearer != nil {
		authenticators = append(authenticators, bearertoken.New(bearer), websocket.NewProtocolAuthenticator(bearer))
	}
	known := group.NewAuthenticatedGroupAdder(union.NewFailOnError(authenticators...))

	var open []apiserverapi.AnonymousAuthCondition
	for _, path := range publicPaths {
		open = append(open, apiserverapi.AnonymousAuthCondition{Path: path})
	}
	anyone := anonymous.NewAuthenticator(open)
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		resp, ok, err := known.AuthenticateRequest(req)
		// A certificate of another cluster does not close what is open to all.
		if ok || (err != nil && !slices.Contains(publicPaths, req.URL.Path)) {
			return resp, ok, err
		}
		return anyone.AuthenticateRequest(req)
	})
}

func fromContext(req *http.Request) (*authenticator.Response, bool, error) {
	u, ok := userFrom(req.Context())
	if !ok {
		return nil, false, nil
	}
	audiences, _ := authenticator.AudiencesFrom(req.Context())
	return &authenticator.Response{User: u, Audiences: audiences}, true, nil
}

package apiserver

import (
	stdx509 "crypto/x509"
	"net/http"
	"slices"

	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"

	"kontiki/apiserver/tokens"
	"kontiki/pki"
)

// publicPaths are open to everybody, so that load balancers and people without
// credentials can see whether a node lives.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}

// apiAudiences are what a token must be meant for to be one of this API's.
var apiAudiences = authenticator.Audiences{tokens.URL}

// newAuthenticator tells who sends a request: the context of requests made in
// this process, a front proxy that has asked already, a client certificate, a
// token, or nobody, who sees publicPaths only.
func newAuthenticator(cfg Config, bearer authenticator.Token) authenticator.Request {
	authenticators := []authenticator.Request{authenticator.RequestFunc(fromContext)}
	verify := func(ca func() *stdx509.CertPool) x509.VerifyOptionFunc {
		return func() (stdx509.VerifyOptions, bool) {
			options := x509.DefaultVerifyOptions()
			options.Roots = ca()
			if cfg.Now != nil {
				options.CurrentTime = cfg.Now()
			}
			return options, options.Roots != nil
		}
	}
	if ca := cfg.FrontProxy.CA; ca != nil {
		authenticators = append(authenticators, fromFrontProxy(verify(func() *stdx509.CertPool { return ca })))
	}
	if cfg.ClientCA != nil {
		authenticators = append(authenticators, x509.NewDynamic(verify(cfg.ClientCA), x509.CommonNameUserConversion))
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

// fromFrontProxy believes the headers of who shows a front proxy's certificate.
// Whoever else sends such headers is himself.
func fromFrontProxy(verify x509.VerifyOptionFunc) authenticator.Request {
	of := func(s ...string) headerrequest.StringSliceProvider { return headerrequest.StaticStringSlice(s) }
	headers := headerrequest.NewDynamicVerifyOptionsSecure(verify, of(pki.FrontProxyUser),
		of("X-Remote-User"), of("X-Remote-Uid"), of("X-Remote-Group"), of("X-Remote-Extra-"))
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		resp, ok, err := headers.AuthenticateRequest(req)
		if err != nil {
			return nil, false, nil // another authority's certificate: the next one's to judge
		}
		return resp, ok, nil
	})
}

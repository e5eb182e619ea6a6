package access

import (
	"context"
	"net/http"
	"net/url"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"kontiki/apiserver/kind"
)

// AuthenticationGroup describes authentication.k8s.io. The audiences are those
// of this API server, which a review that names none is about.
func AuthenticationGroup(who authenticator.Request, audiences []string) kind.Group {
	t := tokens{who, audiences}
	return kind.Group{
		Name:        authenticationv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: authenticationv1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1": {
			kind.Virtual{Resource: "tokenreviews", Storage: &reviewREST{"tokenreview", true, func() runtime.Object { return &authenticationv1.TokenReview{} }, t.review}},
			kind.Virtual{Resource: "selfsubjectreviews", Storage: &reviewREST{"selfsubjectreview", true, func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }, whoAmI}},
		}},
	}
}

func infoOf(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}

func whoAmI(ctx context.Context, _ runtime.Object) (runtime.Object, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: infoOf(u)},
	}, nil
}

type tokens struct {
	who       authenticator.Request
	audiences []string
}

// review asks as if a request had come with the token.
func (t tokens) review(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authenticationv1.TokenReview)
	if r.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := r.Spec.Audiences
	if len(audiences) == 0 {
		audiences = t.audiences
	}
	// A context of its own: the user of this request is not whom it asks about.
	fake := &http.Request{URL: &url.URL{}, Header: http.Header{"Authorization": []string{"Bearer " + r.Spec.Token}}}
	fake = fake.WithContext(authenticator.WithAudiences(context.Background(), audiences))
	resp, ok, err := t.who.AuthenticateRequest(fake)
	r.Status = authenticationv1.TokenReviewStatus{Authenticated: ok && err == nil}
	if err != nil {
		r.Status.Error = err.Error()
	}
	if !r.Status.Authenticated || resp == nil || resp.User == nil {
		return r, nil
	}
	if len(resp.Audiences) == 0 {
		r.Status.Authenticated = false
		r.Status.Error = "the token is for none of the audiences asked for"
		return r, nil
	}
	r.Status.User, r.Status.Audiences = infoOf(resp.User), resp.Audiences
	return r, nil
}

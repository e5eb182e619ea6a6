package pod

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestParseCredentials(t *testing.T) {
	secret := func(key, value string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{key: []byte(value)}}
	}
	for _, s := range []*corev1.Secret{
		secret(".dockerconfigjson", `{"auths":{"r.example":{"auth":"dXNlcjpwYXNzOndvcmQ="}}}`),
		secret(".dockerconfigjson", `{"auths":{"r.example":{"username":"user","password":"pass:word"}}}`),
		secret(".dockercfg", `{"https://r.example":{"username":"user","password":"pass:word"}}`),
	} {
		list, err := parseCredentials(s)
		if err != nil || len(list) != 1 || list[0].Scope != "r.example" || list[0].Auth.Username != "user" || list[0].Auth.Password != "pass:word" {
			t.Errorf("%v %v", list, err)
		}
	}
	for _, s := range []*corev1.Secret{secret("other", "x"), secret(".dockerconfigjson", "x"), secret(".dockerconfigjson", `{"auths":{"r":{"auth":"?"}}}`)} {
		if list, err := parseCredentials(s); err == nil {
			t.Errorf("%v of a broken secret", list)
		}
	}
}

// pulling hears what is told of a pull.
type pulling struct {
	API
	told []string
}

func (p *pulling) Event(_ *corev1.Pod, container, _, reason, message string) {
	p.told = append(p.told, container+" "+reason+" "+message)
}

// TestAPullThatTakesLongIsTold now and then, and not when it is over.
func TestAPullThatTakesLongIsTold(t *testing.T) {
	heard, now := &pulling{}, time.Unix(1000, 0)
	w := &Worker{deps: &Deps{API: heard, Now: func() time.Time { return now }}}
	told := w.progress(&corev1.Pod{}, &corev1.Container{Name: "c", Image: "big:1"})
	for i, after := range []time.Duration{0, 9, 1, 1, 9, 20, 20} {
		now = now.Add(after * time.Second)
		told(int64(i), 6)
	}
	want := []string{`c Pulling Pulling image "big:1": 2 of 6 bytes`, `c Pulling Pulling image "big:1": 4 of 6 bytes`, `c Pulling Pulling image "big:1": 5 of 6 bytes`}
	if !slices.Equal(heard.told, want) {
		t.Errorf("%q, want %q", heard.told, want)
	}
}

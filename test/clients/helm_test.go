package clients

import (
	"context"
	"errors"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// TestHelm installs, upgrades, rolls back and uninstalls a chart that has a
// CustomResourceDefinition, a resource of it, RBAC, hooks and a Deployment.
func TestHelm(t *testing.T) {
	settings := cli.New()
	settings.KubeConfig = kubeconfig
	settings.SetNamespace("garden")
	cfg := action.NewConfiguration()
	if err := cfg.Init(settings.RESTClientGetter(), "garden", "secret"); err != nil {
		t.Fatal(err)
	}
	chart, err := loader.Load("testdata/chart")
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(cfg)
	install.ReleaseName, install.Namespace, install.CreateNamespace = "garden", "garden", true
	install.WaitStrategy, install.Timeout = kube.StatusWatcherStrategy, patience
	if _, err := install.RunWithContext(t.Context(), chart, map[string]any{}); err != nil {
		t.Fatalf("install: %v", err)
	}
	isColour(t, "green")
	may := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:               "system:serviceaccount:garden:gardener",
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "garden", Verb: "list", Group: "garden.example.com", Resource: "plants"},
	}}
	eventually(t, "the gardener to be let in", func(ctx context.Context) error {
		got, err := client(t).AuthorizationV1().SubjectAccessReviews().Create(ctx, may, metav1.CreateOptions{})
		if err == nil && !got.Status.Allowed {
			err = errors.New(got.Status.Reason)
		}
		return err
	})

	upgrade := action.NewUpgrade(cfg)
	upgrade.Namespace, upgrade.WaitStrategy, upgrade.Timeout = "garden", kube.StatusWatcherStrategy, patience
	if _, err := upgrade.RunWithContext(t.Context(), "garden", chart, map[string]any{"colour": "red"}); err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	isColour(t, "red")
	// What the definition refuses fails the release, and the one before stays.
	if _, err := upgrade.RunWithContext(t.Context(), "garden", chart, map[string]any{"colour": "blue"}); err == nil {
		t.Error("an upgrade to what the schema refuses went well")
	}

	rollback := action.NewRollback(cfg)
	rollback.Version, rollback.WaitStrategy, rollback.Timeout = 1, kube.StatusWatcherStrategy, patience
	if err := rollback.Run("garden"); err != nil {
		t.Fatalf("rollback: %v", err)
	}
	isColour(t, "green")

	uninstall := action.NewUninstall(cfg)
	uninstall.WaitStrategy, uninstall.Timeout = kube.StatusWatcherStrategy, patience
	if _, err := uninstall.Run("garden"); err != nil {
		t.Fatalf("uninstall: %v", err)
	}
	if _, err := client(t).AppsV1().Deployments("garden").Get(t.Context(), "garden", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the deployment after uninstall: %v", err)
	}
}

// isColour looks at what the chart wrote, and at the resource of its own kind.
func isColour(t *testing.T, want string) {
	t.Helper()
	cm, err := client(t).CoreV1().ConfigMaps("garden").Get(t.Context(), "garden", metav1.GetOptions{})
	if err != nil || cm.Data["colour"] != want {
		t.Errorf("config map: %v %v, want %s", cm.Data, err, want)
	}
	d, err := dynamic.NewForConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	plants := d.Resource(schema.GroupVersionResource{Group: "garden.example.com", Version: "v1", Resource: "plants"})
	oak, err := plants.Namespace("garden").Get(t.Context(), "oak", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec, _ := oak.Object["spec"].(map[string]any); spec["colour"] != want || spec["height"] != int64(10) {
		t.Errorf("plant: %v, want %s and the default height", spec, want)
	}
	deployment, err := client(t).AppsV1().Deployments("garden").Get(t.Context(), "garden", metav1.GetOptions{})
	if err != nil || deployment.Status.ReadyReplicas != 1 {
		t.Errorf("deployment: %+v %v", deployment.Status, err)
	}
}

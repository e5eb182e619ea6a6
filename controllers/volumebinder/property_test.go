package volumebinder

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

// TestNoVolumeIsGivenAwayTwice binds claims and volumes that come and go in any order, planned from
// caches that are behind the API and each other, with crashes between any two writes. No two claims
// are ever bound to one volume, and none is bound to a volume that means another. Left alone, both
// sides of each binding agree, no claim waits that a free volume would serve, and the volumes of
// claims that are gone are released.
func TestNoVolumeIsGivenAwayTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}}
		m.happened()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := strconv.Itoa(rapid.IntRange(0, 3).Draw(t, "name"))
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				m.makeClaim(name)
			case 2, 3:
				m.makeVolume(name)
			case 4:
				delete(m.claims, name)
				m.happened()
			case 5:
				m.forgive(name)
			case 6, 7:
				m.act(true, name, rapid.IntRange(0, 4).Draw(t, "writes"))
			default:
				m.act(false, name, rapid.IntRange(0, 4).Draw(t, "writes"))
			}
			m.check()
		}
		m.settle()
	})
}

// model is an API with claims and volumes, without classes, and the binder's caches of it.
type model struct {
	t           *rapid.T
	claims      map[string]*corev1.PersistentVolumeClaim
	volumes     map[string]*corev1.PersistentVolume
	seenClaims  plantest.Late[string, *corev1.PersistentVolumeClaim]
	seenVolumes plantest.Late[string, *corev1.PersistentVolume]
	version     int
	current     bool // the caches show what there is
}

func (m *model) happened() {
	m.seenClaims.Happened(m.claims)
	m.seenVolumes.Happened(m.volumes)
}

func (m *model) next() string { m.version++; return strconv.Itoa(m.version) }

func (m *model) size() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(rapid.IntRange(1, 3).Draw(m.t, "size")), resource.BinarySI)}
}

// makeClaim makes a claim that takes any volume, or asks for one by its name.
func (m *model) makeClaim(name string) {
	if m.claims[name] != nil {
		return
	}
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: m.next()},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(""),
			Resources: corev1.VolumeResourceRequirements{Requests: m.size()},
		},
	}
	c.UID = types.UID("claim-" + c.ResourceVersion)
	if rapid.IntRange(0, 3).Draw(m.t, "asks") == 0 {
		c.Spec.VolumeName = strconv.Itoa(rapid.IntRange(0, 3).Draw(m.t, "for"))
	}
	m.claims[name] = c
	m.happened()
}

// makeVolume makes a volume that is free, or kept for a claim of some name.
func (m *model) makeVolume(name string) {
	if m.volumes[name] != nil {
		return
	}
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: m.next()},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: m.size(),
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		},
	}
	v.UID = types.UID("volume-" + v.ResourceVersion)
	if rapid.IntRange(0, 3).Draw(m.t, "kept") == 0 {
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: strconv.Itoa(rapid.IntRange(0, 3).Draw(m.t, "for"))}
	}
	m.volumes[name] = v
	m.happened()
}

// forgive has a user free a released volume.
func (m *model) forgive(name string) {
	v := m.volumes[name]
	if v == nil || v.Status.Phase != corev1.VolumeReleased {
		return
	}
	v = v.DeepCopy()
	v.Spec.ClaimRef, v.ResourceVersion = nil, m.next()
	m.volumes[name] = v
	m.happened()
}

// act plans for a claim or a volume, and writes until it crashes or the API refuses.
func (m *model) act(claim bool, name string, writes int) (wrote bool) {
	late := func(what string) int {
		if m.current {
			return 0
		}
		return rapid.IntRange(0, 4).Draw(m.t, what+" behind")
	}
	claims, volumes := m.seenClaims.Behind(late("claims")), m.seenVolumes.Behind(late("volumes"))
	var todo actions
	var before *corev1.PersistentVolumeClaim
	if claim {
		if before = claims[name]; before == nil {
			return false
		}
		w := claimWorld{claim: before}
		for _, v := range slices.Sorted(maps.Keys(volumes)) {
			w.volumes = append(w.volumes, volumes[v])
		}
		todo = planClaim(w)
	} else {
		v := volumes[name]
		if v == nil {
			return false
		}
		todo = planVolume(v, m.claimOf(v, claims))
	}
	return m.write(before, todo, &plantest.Crash{After: writes})
}

// claimOf is what the controller's claimOf answers: from the cache, or of the API itself.
func (m *model) claimOf(v *corev1.PersistentVolume, claims map[string]*corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == "" {
		return nil
	}
	for _, from := range []map[string]*corev1.PersistentVolumeClaim{claims, m.claims} {
		if c := from[v.Spec.ClaimRef.Name]; c != nil && c.UID == v.Spec.ClaimRef.UID {
			return c
		}
	}
	return nil
}

// write makes the writes of the controller's do: spec and status apart, each only on the version that
// was decided on.
func (m *model) write(claim *corev1.PersistentVolumeClaim, todo actions, crash *plantest.Crash) (wrote bool) {
	if from, want := todo.from, todo.volume; want != nil {
		all := !equality.Semantic.DeepEqual(from.ObjectMeta, want.ObjectMeta) || !equality.Semantic.DeepEqual(from.Spec, want.Spec)
		status := !equality.Semantic.DeepEqual(from.Status, want.Status)
		made, done := put(m, crash, m.volumes, from, want, all, status, func(to, of *corev1.PersistentVolume) { to.Status = of.Status })
		if wrote = made; !done {
			return wrote
		}
	}
	if want := todo.claim; want != nil {
		all := !equality.Semantic.DeepEqual(claim.ObjectMeta, want.ObjectMeta) || !equality.Semantic.DeepEqual(claim.Spec, want.Spec)
		status := !equality.Semantic.DeepEqual(claim.Status, want.Status)
		made, _ := put(m, crash, m.claims, claim, want, all, status, func(to, of *corev1.PersistentVolumeClaim) { to.Status = of.Status })
		wrote = wrote || made
	}
	return wrote
}

// put writes what is wanted of an object, all but the status first; done is false if one was refused.
func put[T interface {
	metav1.Object
	DeepCopy() T
}](m *model, crash *plantest.Crash, objects map[string]T, from, want T, all, status bool, setStatus func(to, of T)) (wrote, done bool) {
	version := from.GetResourceVersion()
	for _, half := range []struct{ wanted, status bool }{{all, false}, {status, true}} {
		if !half.wanted {
			continue
		}
		now, there := objects[want.GetName()]
		if !crash.Write() || !there || now.GetUID() != want.GetUID() || now.GetResourceVersion() != version {
			return wrote, false
		}
		rest, state := want, now
		if half.status {
			rest, state = now, want
		}
		next := rest.DeepCopy()
		setStatus(next, state)
		version = m.next()
		next.SetResourceVersion(version)
		objects[next.GetName()] = next
		wrote = true
		m.happened()
		m.check()
	}
	return wrote, true
}

func completed(c *corev1.PersistentVolumeClaim) bool {
	return metav1.HasAnnotation(c.ObjectMeta, storage.AnnBindCompleted)
}

func (m *model) check() {
	holder := map[string]string{}
	for name, c := range m.claims {
		if !completed(c) {
			continue
		}
		if other, taken := holder[c.Spec.VolumeName]; taken {
			m.t.Fatalf("claims %s and %s are both bound to volume %s", name, other, c.Spec.VolumeName)
		}
		holder[c.Spec.VolumeName] = name
		if v := m.volumes[c.Spec.VolumeName]; v == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID {
			m.t.Fatalf("claim %s is bound to volume %s, which means %+v", name, c.Spec.VolumeName, v.Spec.ClaimRef)
		}
	}
}

// settle lets the binder work, with caches that are up to date, until it has nothing to do.
func (m *model) settle() {
	m.current = true
	for pass := 0; ; pass++ {
		wrote := false
		for _, name := range slices.Sorted(maps.Keys(m.volumes)) {
			wrote = m.act(false, name, 100) || wrote
		}
		for _, name := range slices.Sorted(maps.Keys(m.claims)) {
			wrote = m.act(true, name, 100) || wrote
		}
		if !wrote {
			break
		}
		if pass > 50 {
			m.t.Fatal("after 50 passes there is still something to write")
		}
	}
	for name, c := range m.claims {
		if completed(c) {
			if v := m.volumes[c.Spec.VolumeName]; c.Status.Phase != corev1.ClaimBound || v.Status.Phase != corev1.VolumeBound {
				m.t.Fatalf("claim %s is %s, its volume %s", name, c.Status.Phase, v.Status.Phase)
			}
			continue
		}
		for _, v := range m.volumes {
			if v.Spec.ClaimRef == nil && mismatch(v, c) == "" && (c.Spec.VolumeName == "" || c.Spec.VolumeName == v.Name) {
				m.t.Fatalf("claim %s waits, and volume %s is free", name, v.Name)
			}
		}
	}
	for name, v := range m.volumes {
		want := corev1.VolumeAvailable
		if v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID != "" {
			want = corev1.VolumeReleased
			if c := m.claims[v.Spec.ClaimRef.Name]; c != nil && c.UID == v.Spec.ClaimRef.UID {
				want = corev1.VolumeBound
			}
		}
		if v.Status.Phase != want {
			m.t.Fatalf("volume %s is %s, want %s: %s", name, v.Status.Phase, want, fmt.Sprint(v.Spec.ClaimRef))
		}
	}
}

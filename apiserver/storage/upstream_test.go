package storage_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"k8s.io/apiserver/pkg/features"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"kontiki/raftstore/raftstoretest"
)

// upstreamCase is one function of k8s.io/apiserver/pkg/storage/testing. Which functions are left out, and why, is in DESIGN.md.
type upstreamCase struct {
	name string
	run  func(ctx context.Context, t *testing.T, f *fixture)
}

// needsOwnStore are the cases that use revision 1, which others compact away.
var needsOwnStore = map[string]bool{"WatchSemantics": true}

func upstreamCases() []upstreamCase {
	return []upstreamCase{
		{"Create", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCreate(ctx, t, f, f.checkStored)
		}},
		{"CreateWithTTL", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestCreateWithTTL(ctx, t, f) }},
		{"CreateWithKeyExist", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCreateWithKeyExist(ctx, t, f)
		}},
		{"Get", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestGet(ctx, t, f) }},
		{"UnconditionalDelete", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestUnconditionalDelete(ctx, t, f)
		}},
		{"ConditionalDelete", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestConditionalDelete(ctx, t, f)
		}},
		{"DeleteWithSuggestion", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestion(ctx, t, f)
		}},
		{"DeleteWithSuggestionAndConflict", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionAndConflict(ctx, t, f)
		}},
		{"DeleteWithConflict", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithConflict(ctx, t, f)
		}},
		{"DeleteWithSuggestionOfDeletedObject", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(ctx, t, f)
		}},
		{"ValidateDeletionWithSuggestion", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestValidateDeletionWithSuggestion(ctx, t, f)
		}},
		{"ValidateDeletionWithOnlySuggestionValid", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(ctx, t, f)
		}},
		{"PreconditionalDeleteWithSuggestion", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestPreconditionalDeleteWithSuggestion(ctx, t, f)
		}},
		{"PreconditionalDeleteWithOnlySuggestionPass", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(ctx, t, f)
		}},
		{"List", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestList(ctx, t, f, f.compact, false, nil)
		}},
		{"ConsistentList", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(ctx, t, f, f.increase, false, true, false)
		}},
		{"GetListNonRecursive", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, f.increase, f)
		}},
		{"GetListRecursivePrefix", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListRecursivePrefix(ctx, t, f)
		}},
		{"ListContinuation", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuation(ctx, t, f, f.checkReads)
		}},
		{"ListPaginationRareObject", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, f, f.checkReads)
		}},
		{"ListContinuationWithFilter", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, f, f.checkReads)
		}},
		{"ListInconsistentContinuation", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, f, f.compact)
		}},
		{"ListResourceVersionMatch", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, f)
		}},
		{"ListPaging", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestListPaging(ctx, t, f) }},
		{"NamespaceScopedList", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestNamespaceScopedList(ctx, t, f)
		}},
		{"GuaranteedUpdate", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, f, f.checkStored)
		}},
		{"GuaranteedUpdateWithTTL", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithTTL(ctx, t, f)
		}},
		{"GuaranteedUpdateChecksStoredData", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, f)
		}},
		{"GuaranteedUpdateWithConflict", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithConflict(ctx, t, f)
		}},
		{"GuaranteedUpdateWithSuggestionAndConflict", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(ctx, t, f)
		}},
		{"Stats", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestStats(ctx, t, f, f.codec, f.transformer, false)
		}},
		{"StatsWithSizes", func(ctx context.Context, t *testing.T, f *fixture) {
			if err := f.EnableResourceSizeEstimation(func(context.Context) ([]string, error) { return nil, nil }); err != nil {
				t.Fatal(err)
			}
			storagetesting.RunTestStats(ctx, t, f, f.codec, f.transformer, true)
		}},
		{"CompactRevision", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestCompactRevision(ctx, t, f, f.increase, f.compact)
		}},
		{"KeySchema", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestKeySchema(ctx, t, f) }},

		{"Watch", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestWatch(ctx, t, f) }},
		{"WatchFromZero", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchFromZero(ctx, t, f, f.compact)
		}},
		{"DeleteTriggerWatch", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteTriggerWatch(ctx, t, f)
		}},
		{"WatchFromNonZero", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestWatchFromNonZero(ctx, t, f) }},
		{"DelayedWatchDelivery", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDelayedWatchDelivery(ctx, t, f)
		}},
		{"WatchError", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestWatchError(ctx, t, f) }},
		{"WatchContextCancel", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchContextCancel(ctx, t, f)
		}},
		{"WatcherTimeout", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestWatcherTimeout(ctx, t, f) }},
		{"WatchDeleteEventObjectHaveLatestRV", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(ctx, t, f)
		}},
		{"WatchInitializationSignal", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchInitializationSignal(ctx, t, f)
		}},
		{"ProgressNotify", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunOptionalTestProgressNotify(ctx, t, f, f.increase)
		}},
		{"ClusterScopedWatch", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestClusterScopedWatch(ctx, t, f)
		}},
		{"NamespaceScopedWatch", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestNamespaceScopedWatch(ctx, t, f)
		}},
		{"WatchDispatchBookmarkEvents", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, f, true)
		}},
		{"WatchBookmarksWithCorrectResourceVersion", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, f)
		}},
		{"SendInitialEventsBackwardCompatibility", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunSendInitialEventsBackwardCompatibility(ctx, t, f)
		}},
		{"WatchSemantics", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunWatchSemantics(ctx, t, f) }},
		{"WatchSemanticInitialEventsExtended", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunWatchSemanticInitialEventsExtended(ctx, t, f)
		}},
		{"WatchListMatchSingle", func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunWatchListMatchSingle(ctx, t, f) }},
		{"WatchErrorIsBlockingFurtherEvents", func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, f)
		}},
	}
}

// waitsByTheClock are the cases that spend their seconds on buffers and bookmarks
// of a watch, which are the same wherever the store is.
var waitsByTheClock = map[string]bool{
	"DelayedWatchDelivery": true, "ProgressNotify": true,
	"WatchDispatchBookmarkEvents": true, "WatchBookmarksWithCorrectResourceVersion": true,
}

// TestUpstreamSuite runs them on a single node.
func TestUpstreamSuite(t *testing.T) {
	runSuite(t, upstreamCases(), newStore)
}

// TestUpstreamSuiteOnFollower runs them against a follower of three voters: every
// write is forwarded, and every read at no revision is a read-index round.
func TestUpstreamSuiteOnFollower(t *testing.T) {
	runSuite(t, remoteCases(), func(t testing.TB) store {
		cluster := raftstoretest.NewCluster(t, 3)
		return cluster.Stores[(cluster.Leader()+1)%3]
	})
}

// TestUpstreamSuiteOnNonvoter runs them against a replica that has no vote.
func TestUpstreamSuiteOnNonvoter(t *testing.T) {
	runSuite(t, remoteCases(), func(t testing.TB) store {
		cluster := raftstoretest.NewCluster(t, 2)
		leader, nonvoter := cluster.Stores[cluster.Leader()], cluster.Add()
		if err := leader.AddNonvoter(t.Context(), raftstoretest.NodeID(nonvoter)); err != nil {
			t.Fatal(err)
		}
		return cluster.Stores[nonvoter]
	})
}

func remoteCases() []upstreamCase {
	return slices.DeleteFunc(upstreamCases(), func(c upstreamCase) bool { return waitsByTheClock[c.name] })
}

// runsAlone are the cases that change features of the whole process, which others must
// not see; one that reads, in parallel tests of its own, what lives for a second; and one
// that gives a hundred writes, one after another, three seconds.
var runsAlone = map[string]bool{
	"WatchSemantics": true, "WatchSemanticInitialEventsExtended": true, "WatchListMatchSingle": true, "Get": true,
	"WatchBookmarksWithCorrectResourceVersion": true,
}

// lanes is how many cases run at a time, each on a store that no other uses then: most
// of them wait.
const lanes = 3

// runSuite runs the cases, each below a prefix of its own. A store serves one after
// another, since stores take their time to start.
func runSuite(t *testing.T, cases []upstreamCase, open func(testing.TB) store) {
	free := make(chan store, lanes)
	for range lanes {
		free <- open(t)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !runsAlone[c.name] {
				t.Parallel()
			}
			var backend store
			if needsOwnStore[c.name] {
				backend = open(t)
			} else {
				backend = <-free
				t.Cleanup(func() { free <- backend }) // after the fixture has let go of it
			}
			f := newFixture(t, backend, withPrefix("/"+c.name))
			f.latest = true
			c.run(f.ctx, t, f)
		})
	}
}

// newStore is a store of one node.
func newStore(t testing.TB) store { return raftstoretest.New(t) }

// TestUpstreamCorruptObjectsOff runs those whose expectations hold only without
// the feature: the first value that cannot be read fails a list.
func TestUpstreamCorruptObjectsOff(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, false)

	t.Run("GetListWithoutErrorAggregation", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		storagetesting.RunTestGetListWithoutErrorAggregation(f.ctx, t, f, errCorrupt)
	})
	t.Run("TransformationFailure", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		storagetesting.RunTestTransformationFailure(f.ctx, t, f)
	})
}

// TestUpstreamCorruptObjects runs those of values that cannot be read.
func TestUpstreamCorruptObjects(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)

	t.Run("DeleteWithConflictAndMissingExpectedError", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		codec := &failingCodec{Codec: f.codec}
		f = newFixture(t, f.store, withCodec(codec))
		storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(f.ctx, t, f, codec.set)
	})
	t.Run("DeleteExpectedDecodeError", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		codec := &failingCodec{Codec: f.codec}
		f = newFixture(t, f.store, withCodec(codec))
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(f.ctx, t, f, codec.set)
	})
	t.Run("DeleteExpectedTransformError", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		transformer := &failingTransformer{Transformer: f.transformer.load()}
		f.transformer.store(transformer)
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(f.ctx, t, f, transformer.set)
	})
	t.Run("DeleteWithSuggestionAndMissingExpectedError", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(f.ctx, t, f)
	})
	t.Run("GetListWithErrorAggregation", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		storagetesting.RunTestGetListWithErrorAggregation(f.ctx, t, f, fmt.Errorf("bits flipped: %w", errCorrupt))
	})
	t.Run("WatchWithUnsafeDelete", func(t *testing.T) {
		f := newFixture(t, newStore(t))
		storagetesting.RunTestWatchWithUnsafeDelete(f.ctx, t, f, fmt.Errorf("bits flipped: %w", errCorrupt))
	})
}

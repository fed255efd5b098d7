package ability

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuestionableResponses(t *testing.T) {
	var s Set
	require.True(t, s.IsQuestionable(1, 404, 0))
	require.False(t, s.IsQuestionable(1, 401, 0))
	for range 3 {
		s.RecordQuestioned(404, 404)
	}
	s.RecordQuestioned(404, 200)
	for range 4 {
		require.True(t, s.IsQuestionable(1, 404, 0))
		s.RecordQuestioned(404, 404)
	}
	require.False(t, s.IsQuestionable(1, 404, 0), "the target sends the same responses through others")
	s.RecordQuestioned(404, 200)
	for i := range 16 {
		require.True(t, s.IsQuestionable(1, 404, 0))
		s.RecordQuestioned(404, 403*(i%2)) // 0: through no other proxy
	}
	require.False(t, s.IsQuestionable(1, 404, 0), "other proxies relay errors only, too")
	s.RecordSuccess(Forward, 0, Traffic)
	require.False(t, s.IsQuestionable(1, 404, 0))
	for range 3 * refusalsAfterSuccess {
		s.RecordRefusal(1, 404, true, 0)
	}
	require.False(t, s.IsQuestionable(1, 404, 0), "one target may send errors only")
	s.RecordSuccess(Forward, 0, Traffic)
	for i := range uint64(refusalsAfterSuccess) {
		require.False(t, s.IsQuestionable(1, 404, 0))
		s.RecordRefusal(i%severalTargets, 404, true, 0)
	}
	require.False(t, s.RecordComparison(2, 404, 404, 0))
	require.False(t, s.IsQuestionable(2, 404, 0), "the target sends it through a tunnel, too")
	require.True(t, s.IsQuestionable(1, 404, 0), "a web server has taken the place of the proxy")
	s.RecordSuccess(Forward, 0, Traffic)
	require.False(t, s.IsQuestionable(1, 404, 0))
	require.False(t, s.HasLostResponse())
	s.RecordLostResponse()
	require.True(t, s.HasLostResponse())
	s.RecordRefusal(1, 404, true, 0)
	s.RecordSuccess(Forward, 0, Traffic)
	require.False(t, s.HasLostResponse())
}

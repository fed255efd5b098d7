package coretest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLateness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := MeasureTimerDelay(t)
		time.Sleep(time.Second)
		require.Zero(t, late(), "virtual time is never late")
	})
}

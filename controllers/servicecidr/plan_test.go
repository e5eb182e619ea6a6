package servicecidr

import (
	"testing"

	"kontiki/controllers/plantest"
)

func TestPlan(t *testing.T) { plantest.Run(t, plan) }

package batch

import (
	"fmt"
	"strconv"
	"strings"
)

// indexesOf counts the indexes in a list such as "1,3-5,7", which must be
// ascending and below completions.
func indexesOf(text string, completions int32) (int32, error) {
	if text == "" {
		return 0, nil
	}
	total, last := int32(0), int64(-1)
	for _, interval := range strings.Split(text, ",") {
		parts := strings.Split(interval, "-")
		if len(parts) > 2 {
			return 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", interval)
		}
		x, err := strconv.ParseInt(parts[0], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("cannot convert string to integer for index: %q", parts[0])
		}
		if x >= int64(completions) {
			return 0, fmt.Errorf("too large index: %q", parts[0])
		}
		if x <= last {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, x)
		}
		y := x
		if len(parts) == 2 {
			if y, err = strconv.ParseInt(parts[1], 10, 32); err != nil {
				return 0, fmt.Errorf("cannot convert string to integer for index: %q", parts[1])
			}
			if y >= int64(completions) {
				return 0, fmt.Errorf("too large index: %q", parts[1])
			}
			if x >= y {
				return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", x, y)
			}
		}
		total, last = total+int32(y-x+1), y
	}
	return total, nil
}

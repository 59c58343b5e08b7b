"""A stream of real questions through a running gateway, beside plain similarity thresholds on the same stream."""

"""One image explained to a clinician: prediction, experts, gate, and two maps that are no proof of anything."""

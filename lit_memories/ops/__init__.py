"""Building blocks on tensors: schedule, rollout, targets, selection. Nothing here knows Lightning."""

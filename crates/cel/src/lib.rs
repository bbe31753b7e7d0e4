//! The Common Expression Language as Kubernetes uses it: parse, check, estimate, evaluate.

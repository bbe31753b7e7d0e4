//! The controllers against the real API server in process: what comes about, not which calls were made.

mod accounts;
mod attaching;
mod budgets;
mod claims;
mod device_claims;
mod endpoints;
mod garbage;
mod jobs;
mod leading;
mod nodes;
mod queues;
mod quotas;
mod ranges;
mod rollout;
mod running;
mod sets;
mod stopping;
mod tokens;
mod volumes;

//! Validation of the batch group.

mod cron_job;
mod job;
mod job_status;

pub use cron_job::{validate_cron_job, validate_cron_job_update, warnings_cron_job};
pub use job::{validate_job, validate_job_update, warnings_job};
pub use job_status::validate_job_status_update;

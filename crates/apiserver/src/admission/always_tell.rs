//! AlwaysAdmit and AlwaysDeny: let everything through, or nothing. Upstream deprecates both.

use async_trait::async_trait;
use skiff_api::{ApiResult, Object};

use super::{Admission, AdmissionRequest};

pub(crate) struct AlwaysAdmit;

impl Admission for AlwaysAdmit {}

pub(crate) struct AlwaysDeny;

const DENIED: &str = "admission control is denying all modifications";

#[async_trait]
impl Admission for AlwaysDeny {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        _object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        Err(request.forbidden(DENIED))
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        _object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        Err(request.forbidden(DENIED))
    }
}

//! Admission: plugins that change or refuse writes, in upstream's default order.

use std::sync::Arc;

use async_trait::async_trait;
use skiff_api::{ApiResult, Object};

use crate::registry::Resource;
use crate::server::Call;

mod namespace_lifecycle;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are upstream's own operations")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write, or a connection, on its way to being admitted.
pub(crate) struct AdmissionRequest<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    pub resource: &'a Resource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty for a create whose name is yet to be made.
    pub name: &'a str,
    pub dry_run: bool,
}

impl AdmissionRequest<'_> {
    /// Whether the write is to this resource of this group, subresource excluded.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.kind.group == group
            && self.resource.kind.plural == plural
            && self.subresource.is_empty()
    }
}

/// An admission plugin.
#[async_trait]
pub(crate) trait Admission: Send + Sync + 'static {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;
    /// Changes an object before it is validated; `old` is none on create.
    async fn mutate(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        Ok(())
    }
    /// Refuses what may not be; `object` is none on delete, `old` on create.
    async fn validate(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        Ok(())
    }
}

/// The plugins, in the order in which they run.
pub(crate) fn plugins() -> Vec<Arc<dyn Admission>> {
    vec![Arc::new(namespace_lifecycle::NamespaceLifecycle)]
}

/// Runs the changing half of all plugins.
pub(crate) async fn mutate(
    request: &AdmissionRequest<'_>,
    object: &mut dyn Object,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    for plugin in &request.call.server.admission {
        plugin.mutate(request, object, old).await?;
    }
    Ok(())
}

/// Runs the refusing half of all plugins.
pub(crate) async fn validate(
    request: &AdmissionRequest<'_>,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    for plugin in &request.call.server.admission {
        plugin.validate(request, object, old).await?;
    }
    Ok(())
}

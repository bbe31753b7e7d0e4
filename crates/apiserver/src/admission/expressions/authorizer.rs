//! `authorizer`: what expressions ask of the server's authorizer.
//!
//! Expressions run without waiting, and an authorizer may have to. Nearly all answer at once; what one does not answer
//! at once is remembered as open, the evaluation is thrown away, and it starts anew with the answers known.

use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use skiff_cel::{Authorizer, Check, Decision, ResourceCheck, ServiceAccount};

use crate::admission::AdmissionRequest;
use crate::admission::matching::Matching;
use crate::request::{Attributes, UserInfo};
use crate::seam;
use crate::server::ApiServer;

/// An evaluation is started anew at most so often; an expression that asks something new each time has no answer then.
const ROUNDS: usize = 32;

/// The questions that a request's expressions asked, with their answers: each is asked once.
pub(crate) struct Checks {
    server: Arc<ApiServer>,
    user: Arc<UserInfo>,
    request: ResourceCheck,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    answers: Vec<(Attributes, Decision)>,
    open: Vec<Attributes>,
}

fn decision(decision: &seam::Decision) -> Decision {
    Decision {
        allowed: decision.allowed(),
        reason: decision.reason().to_owned(),
        error: None,
    }
}

impl Checks {
    /// For the expressions about a request.
    pub fn new(request: &AdmissionRequest<'_>) -> Self {
        let asked = Matching::new(request, None, None).asked();
        Self {
            server: request.call.server.clone(),
            user: request.call.user.clone(),
            request: ResourceCheck {
                group: asked.group.to_owned(),
                resource: asked.plural.to_owned(),
                subresource: asked.subresource.to_owned(),
                namespace: asked.namespace.to_owned(),
                name: asked.name.to_owned(),
                ..ResourceCheck::default()
            },
            known: Mutex::default(),
        }
    }

    /// The check of the request's own resource.
    pub fn request_resource(&self) -> ResourceCheck {
        self.request.clone()
    }

    /// Evaluates, anew as long as there are questions that had to wait.
    pub async fn settled<T>(&self, mut evaluate: impl FnMut() -> T) -> T {
        for _ in 0..ROUNDS {
            let outcome = evaluate();
            let open = std::mem::take(&mut self.known.lock().open);
            if open.is_empty() {
                return outcome;
            }
            for attributes in open {
                let answer = decision(&self.server.decide(&attributes).await);
                self.known.lock().answers.push((attributes, answer));
            }
        }
        evaluate()
    }

    fn user(&self, account: Option<&ServiceAccount>) -> Arc<UserInfo> {
        let Some(ServiceAccount { namespace, name }) = account else {
            return self.user.clone();
        };
        let group = format!("system:serviceaccounts:{namespace}");
        Arc::new(UserInfo::new(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &group, "system:authenticated"],
        ))
    }
}

impl Authorizer for Checks {
    fn authorize(
        &self,
        account: Option<&ServiceAccount>,
        verb: &str,
        check: &Check<'_>,
    ) -> Decision {
        let nothing = ResourceCheck::default();
        let (path, resource) = match check {
            Check::Path(path) => (*path, &nothing),
            Check::Resource(resource) => ("", *resource),
        };
        let is_resource = matches!(check, Check::Resource(_));
        let attributes = Attributes {
            user: self.user(account.or(resource.account.as_ref())),
            verb: verb.to_owned(),
            namespace: resource.namespace.clone(),
            group: resource.group.clone(),
            version: if is_resource { "*" } else { "" }.to_owned(),
            resource: resource.resource.clone(),
            subresource: resource.subresource.clone(),
            name: resource.name.clone(),
            path: path.to_owned(),
            is_resource,
            label_selector: resource.label_selector.clone(),
            field_selector: resource.field_selector.clone(),
        };
        let mut known = self.known.lock();
        let found = known.answers.iter().find(|(asked, _)| *asked == attributes);
        if let Some((_, answer)) = found {
            return answer.clone();
        }
        let at_once = self.server.decide(&attributes).now_or_never();
        match at_once {
            Some(answer) => {
                let answer = decision(&answer);
                known.answers.push((attributes, answer.clone()));
                answer
            }
            None => {
                known.open.push(attributes);
                Decision::default()
            }
        }
    }
}

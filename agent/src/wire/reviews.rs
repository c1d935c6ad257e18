//! [`Reviews`] by the API server of the cluster.

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};

use crate::server::{Identity, Reviews};

/// Asks about this node.
pub struct NodeReviews {
    /// Who is asked.
    pub client: Client,
    /// Its name.
    pub node: String,
}

impl NodeReviews {
    async fn whose(&self, token: &str) -> Result<Option<Identity>, String> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| super::chain(&error))?.status.unwrap_or_default();
        let found = status.user.filter(|_| status.authenticated == Some(true));
        Ok(found.map(|user| Identity {
            user: user.username.unwrap_or_default(),
            uid: user.uid.filter(|uid| !uid.is_empty()),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    async fn allowed(&self, who: &Identity, verb: &str, subresource: &str) -> Result<bool, String> {
        let text = |text: &str| Some(text.to_owned());
        let spec = SubjectAccessReviewSpec {
            user: text(&who.user),
            uid: who.uid.clone(),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: text(verb),
                version: text("v1"),
                resource: text("nodes"),
                subresource: text(subresource),
                name: text(&self.node),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| super::chain(&error))?.status;
        Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

impl Reviews for NodeReviews {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Identity>, String>> {
        self.whose(token).boxed()
    }

    fn access<'a>(
        &'a self,
        who: &'a Identity,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        self.allowed(who, verb, subresource).boxed()
    }
}

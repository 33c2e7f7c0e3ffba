//! What handlers take out of a request, with our own errors when it is not there.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::rest::{ApiError, ErrorCode};
use crate::types::{Gid, VolumeName};
use crate::wire::identity::Identity;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(self)).into_response()
    }
}

/// A JSON body; an empty one stands for `{}`.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bad = |detail: String| ApiError::new(ErrorCode::BadRequest, detail);
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|e| bad(format!("request body: {e}")))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|e| bad(format!("request body: {e}")))
    }
}

async fn parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, ApiError> {
    let Path(map) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
        .await
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("request path: {e}")))?;
    map.get(name)
        .cloned()
        .ok_or_else(|| ApiError::new(ErrorCode::BadRequest, format!("request path has no {name}")))
}

/// `{vol}` of the path.
pub struct Volume(pub VolumeName);

impl<S: Send + Sync> FromRequestParts<S> for Volume {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(VolumeName::new(&parameter(parts, state, "vol").await?)?))
    }
}

/// `{gid}` of the path.
pub struct GidParameter(pub Gid);

impl<S: Send + Sync> FromRequestParts<S> for GidParameter {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(parameter(parts, state, "gid").await?.parse()?))
    }
}

/// `{name}` of the path: 1 to 64 characters, safe as a file name.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = parameter(parts, state, "name").await?;
        // The rule for archive names is that of node ids.
        Identity::new(crate::wire::identity::Role::Archive, &name).map_err(|_| {
            crate::types::ParseError::new("archive name", &name, "1 to 64 characters of 0-9 a-z A-Z - _ .")
        })?;
        if name.starts_with('.') {
            return Err(
                crate::types::ParseError::new("archive name", &name, "no dot at the beginning").into(),
            );
        }
        Ok(Self(name))
    }
}

/// The query string.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Query::<T>::from_request_parts(parts, state)
            .await
            .map(|Query(value)| Self(value))
            .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("request parameters: {e}")))
    }
}

/// The authenticated peer.
pub struct Peer(pub Identity);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // The server puts it there for every connection; without it nobody was authenticated.
        parts
            .extensions
            .get::<Identity>()
            .cloned()
            .map(Self)
            .ok_or_else(|| ApiError::new(ErrorCode::Forbidden, "no authenticated peer on this connection"))
    }
}

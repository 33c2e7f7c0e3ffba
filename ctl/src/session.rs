//! One server, called under our identity, with the retries that were asked for.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use walb_common::rest::{ErrorCode, NodeInfo};
use walb_common::types::Timestamp;
use walb_common::wire::client::{Client, ClientError};
use walb_common::wire::identity::Role;
use walb_common::wire::tls::TlsContext;

use crate::config::Config;
use crate::error::CommandError;

/// Every kind of server.
pub const SERVERS: &[Role] = &[Role::Storage, Role::Proxy, Role::Archive];
/// Storage only.
pub const STORAGE: &[Role] = &[Role::Storage];
/// Proxy only.
pub const PROXY: &[Role] = &[Role::Proxy];
/// Archive only.
pub const ARCHIVE: &[Role] = &[Role::Archive];
/// Those that keep a volume of their own.
pub const STORAGE_OR_ARCHIVE: &[Role] = &[Role::Storage, Role::Archive];
/// Those that can be kicked.
pub const STORAGE_OR_PROXY: &[Role] = &[Role::Storage, Role::Proxy];

/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Options of every command. Where to call stands before the command; the others may also stand behind it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Options {
    /// Server host
    #[arg(id = "server_host", short = 'a', long = "host", value_name = "HOST")]
    pub host: Option<String>,
    /// Server port
    #[arg(id = "server_port", short = 'p', long = "port", value_name = "PORT")]
    pub port: Option<u16>,
    /// Id of this controller; accepted for existing scripts, the certificate says who we are
    #[arg(id = "controller_id", long = "id", value_name = "STRING")]
    pub id: Option<String>,
    /// Seconds to wait for a connection, and for an answer
    #[arg(long, value_name = "SEC", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86400), global = true)]
    pub to: u64,
    /// Debug messages on stderr
    #[arg(long, global = true)]
    pub debug: bool,
    /// Further attempts of status and get, 100 ms apart [default: 2]
    #[arg(long, value_name = "N", global = true)]
    pub retry: Option<u32>,
    /// Print the server's JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Follow the job of stop, full-bkp, hash-bkp or restore to its end
    #[arg(long, global = true)]
    pub wait: bool,
    /// Give up waiting after so many seconds; the job goes on
    #[arg(long, value_name = "SEC", requires = "wait", global = true)]
    pub timeout: Option<u64>,
}

/// A server and our identity.
pub struct Session {
    client: Client,
    address: String,
    origin: String,
    attempts: u32,
    /// Options of the command line.
    pub options: Options,
}

impl Session {
    /// Finds our identity and the server's address. `origin` is the command, for errors; `attempts` at least 1.
    pub fn open(options: &Options, origin: &str, attempts: u32) -> Result<Self, CommandError> {
        let missing = |option: &str, what: &str| {
            CommandError::Usage(format!("{option} is required: the server's {what}"))
        };
        // The address is looked at first: without it the words on the command line are wrong already. But the
        // configuration may have defaults for it.
        let config = Config::find();
        let (host, port) = match &config {
            Ok(config) => (
                options.host.clone().or_else(|| config.host.clone()),
                options.port.or(config.port),
            ),
            Err(_) => (options.host.clone(), options.port),
        };
        let host = host.ok_or_else(|| missing("-a HOST", "host"))?;
        let port = port.ok_or_else(|| missing("-p PORT", "port"))?;
        let config = config?;
        let tls = TlsContext::load(&config.tls)?;
        let expires = tls.current().expires;
        if expires < OffsetDateTime::now_utc().unix_timestamp() {
            let time = Timestamp(u64::try_from(expires).unwrap_or(0));
            return Err(CommandError::local_with(
                format!("our certificate has expired:{}:{time}", config.tls.cert.display()),
                "issue a new one with `walbc pki issue`",
            ));
        }
        let timeout = Duration::from_secs(options.to);
        let address = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        Ok(Self {
            client: Client::new(tls, timeout, timeout),
            address,
            origin: origin.to_owned(),
            attempts: attempts.max(1),
            options: options.clone(),
        })
    }

    /// Where the server is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// One request; `roles` are those of the servers that know it.
    async fn once(
        &self,
        roles: &[Role],
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        tracing::debug!(server = self.address, %method, path, "request");
        match self
            .client
            .request::<Value, Value>(&self.address, roles, method.clone(), path, body)
            .await
        {
            Ok(answer) => Ok(answer),
            Err(ClientError::Role { found, expected, .. }) => Err(CommandError::WrongKind {
                what: if self.origin.starts_with("get ") {
                    "no such target"
                } else {
                    "bad protocol"
                },
                command: self.origin.trim_start_matches("get ").to_owned(),
                found,
                expected,
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn request(
        &self,
        roles: &[Role],
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        let mut attempt = 1;
        loop {
            match self.once(roles, &method, path, body).await {
                Err(error) if attempt < self.attempts && error.is_passing() => {
                    eprintln!("error: {}", error.reason());
                    eprintln!("retry {attempt}");
                    attempt += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// GET.
    pub async fn get(&self, roles: &[Role], path: &str) -> Result<Value, CommandError> {
        self.request(roles, Method::GET, path, None).await
    }

    /// POST.
    pub async fn post<Q: Serialize>(
        &self,
        roles: &[Role],
        path: &str,
        body: &Q,
    ) -> Result<Value, CommandError> {
        self.request(roles, Method::POST, path, Some(&encode(body)?))
            .await
    }

    /// PUT.
    pub async fn put<Q: Serialize>(
        &self,
        roles: &[Role],
        path: &str,
        body: &Q,
    ) -> Result<Value, CommandError> {
        self.request(roles, Method::PUT, path, Some(&encode(body)?)).await
    }

    /// DELETE.
    pub async fn delete(&self, roles: &[Role], path: &str) -> Result<Value, CommandError> {
        self.request(roles, Method::DELETE, path, None).await
    }

    /// Who the server is.
    pub async fn node(&self, roles: &[Role]) -> Result<NodeInfo, CommandError> {
        decode(&self.get(roles, "/v1/node").await?)
    }

    /// The server's role.
    pub async fn role(&self, roles: &[Role]) -> Result<Role, CommandError> {
        Ok(self.node(roles).await?.host_type.parse()?)
    }
}

fn encode<Q: Serialize>(body: &Q) -> Result<Value, CommandError> {
    serde_json::to_value(body).map_err(|e| CommandError::local(format!("cannot encode the request:{e}")))
}

/// What the server's JSON says, in our types.
pub fn decode<A: DeserializeOwned>(answer: &Value) -> Result<A, CommandError> {
    A::deserialize(answer)
        .map_err(|e| CommandError::local(format!("the answer is not of the form expected:{e}")))
}

/// Whether the server says that the thing named does not exist.
pub fn is_not_found(error: &CommandError) -> bool {
    matches!(error, CommandError::Client(ClientError::Api(error)) if error.code == ErrorCode::NotFound)
}

//! One connection, from its first byte to its last.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::thread;

use super::handshake::{Agreed, Haggled, HandshakeError, Offer, Tls, greet, haggle};
use super::server::{NbdLimits, Security, Shared};
use super::tls::{TlsHandshakeError, TlsTransport};
use super::transmission::{TransmissionError, serve_requests};
use super::transport::Transport;
use super::window::{Window, WindowLimits};

/// Buffer of a connection's reader: all that has arrived while the last requests were under way comes in one system call.
const READ_BUFFER: usize = 256 << 10;

/// Why a connection was closed before the client left.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("prepare the connection")]
    Open(#[source] io::Error),
    #[error("send answers")]
    Answer(#[source] io::Error),
    #[error("no export chosen within {seconds} s")]
    Late { seconds: u64 },
    #[error("cut off to make room: {most} others are choosing an export, and it was the slowest")]
    MadeRoom { most: usize },
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Tls(#[from] TlsHandshakeError),
    #[error(transparent)]
    Transmission(#[from] TransmissionError),
}

/// A connection with what it agreed on. Reading goes on with the same reader, which may hold bytes already.
struct Chosen {
    agreed: Agreed,
    transport: Arc<dyn Transport>,
    input: Box<dyn Read + Send>,
    output: Box<dyn Write + Send>,
}

/// Serves the connection `id` until it ends.
pub(super) fn serve(
    shared: &Shared,
    id: u64,
    socket: Arc<dyn Transport>,
    peer: &str,
) -> Result<(), ServeError> {
    match choose(shared, id, socket, peer)? {
        Some(chosen) => transmit(shared.limits, id, chosen),
        None => Ok(()),
    }
}

/// Haggles, in the clear and then inside TLS, until an export is chosen; `None` when the client left.
fn choose(
    shared: &Shared,
    id: u64,
    socket: Arc<dyn Transport>,
    peer: &str,
) -> Result<Option<Chosen>, ServeError> {
    let mut transport = socket;
    let mut input = transport.reader().map_err(ServeError::Open)?;
    let mut output = transport.writer().map_err(ServeError::Open)?;
    let Some(greeted) = greet(&mut input, &mut output)? else {
        return Ok(None);
    };
    let enter = |export: &_| shared.enter(id, export);
    let offer = Offer {
        exports: &shared.exports,
        tls: match shared.security {
            Security::Plain => Tls::Missing,
            Security::Optional(_) => Tls::Offered,
            Security::Required(_) => Tls::Required,
        },
        peer: None,
        enter: &enter,
    };
    let mut haggled = haggle(&mut input, &mut output, greeted, &offer)?;
    let mut client = None;
    if let (Haggled::StartTls, Security::Optional(tls) | Security::Required(tls)) =
        (&haggled, &shared.security)
    {
        let (inside, identity) = TlsTransport::accept(transport, tls.current().server)?;
        transport = Arc::new(inside);
        input = transport.reader().map_err(ServeError::Open)?;
        output = transport.writer().map_err(ServeError::Open)?;
        let offer = Offer {
            tls: Tls::Active,
            peer: Some(&identity),
            ..offer
        };
        haggled = haggle(&mut input, &mut output, greeted, &offer)?;
        client = Some(identity.to_string());
    }
    let Haggled::Chosen(agreed) = haggled else {
        return Ok(None);
    };
    tracing::info!(
        peer,
        client,
        export = agreed.export.name(),
        "NBD connection opened"
    );
    Ok(Some(Chosen {
        agreed,
        transport,
        input,
        output,
    }))
}

/// Requests and answers, until the client leaves and all is answered.
fn transmit(limits: NbdLimits, id: u64, chosen: Chosen) -> Result<(), ServeError> {
    let Chosen {
        agreed,
        transport,
        input,
        mut output,
    } = chosen;
    let limits = WindowLimits {
        requests: limits.requests,
        bytes: limits.bytes,
    };
    let window = Window::new(limits, transport.clone());
    let mut input = BufReader::with_capacity(READ_BUFFER, input);
    let served = thread::scope(|scope| {
        let writer = thread::Builder::new()
            .name(format!("nbd-{id}-out"))
            .spawn_scoped(scope, || window.write_replies(output.as_mut()))
            .map_err(ServeError::Open)?;
        let served = serve_requests(&mut input, &agreed, &window);
        if served.is_err() {
            // Nothing sensible can be said to this client any more: do not wait for it to read its answers.
            transport.shutdown();
        }
        window.no_more_requests();
        let written = writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        served?;
        written.map_err(ServeError::Answer)
    });
    transport.shutdown();
    served
}

//! A hand-made archive: applies what it accepts to an image in memory, and refuses what it is told to.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::{Request, State};
use bytes::BytesMut;
use walb_common::convert::{DiscardMode, apply_wdiffs};
use walb_common::daemon::config::{self, NodeConfig};
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::database;
use walb_common::daemon::extract::Volume;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::server::{self, Api};
use walb_common::lineage::{Relation, Snapshot};
use walb_common::rest::ApiError;
use walb_common::testing::MemImage;
use walb_common::testing::generators::wdiff_reader;
use walb_common::types::{Gid, Uuid, VolumeName};
use walb_common::wire::identity::Role;
use walb_common::wire::message::{Answer, Done, Refusal, RefusalReason, StreamKind, WdiffBegin};
use walb_common::wire::stream::{Received, Stream, StreamError};
use walb_common::wire::tls::TlsContext;

use super::{Site, until};

/// What it does with the next offers, one each; then what is right.
#[derive(Clone)]
pub enum Whim {
    Refuse(RefusalReason),
    /// Accepts, then never reads.
    Hang,
    /// Takes everything, then closes instead of acknowledging: the proxy cannot know.
    NoDone,
    /// Gives up in the middle.
    Fail,
}

#[derive(Default)]
pub struct Model {
    pub whims: VecDeque<Whim>,
    pub uuid: Option<Uuid>,
    pub latest: HashMap<VolumeName, Snapshot>,
    pub images: HashMap<VolumeName, Arc<MemImage>>,
    pub offers: Vec<WdiffBegin>,
    pub accepted: Vec<WdiffBegin>,
}

#[derive(Clone)]
pub struct Archive {
    pub address: String,
    pub lifecycle: Lifecycle,
    context: Arc<DaemonContext>,
    model: Arc<Mutex<Model>>,
}

impl Archive {
    pub async fn start(site: &Site, node: &str) -> Self {
        let tls = site.issue(Role::Archive, node);
        let dir = site.dir.path().join(node);
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("node.toml");
        let text = format!(
            "listen = '127.0.0.1:0'\ndata_dir = {dir:?}\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            tls.ca, tls.cert, tls.key
        );
        std::fs::write(&path, text).unwrap();
        let config: NodeConfig = config::load(&path).unwrap();
        let lifecycle = Lifecycle::new(Duration::from_secs(1));
        let listener = server::bind(&config).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pool = database::open(Path::new(&dir).join("db").as_path(), &[])
            .await
            .unwrap();
        let tls = TlsContext::load(&tls).unwrap();
        let context = DaemonContext::new(config, tls, lifecycle.clone(), pool)
            .await
            .unwrap();
        let archive = Self {
            address,
            lifecycle: lifecycle.clone(),
            context: context.clone(),
            model: Arc::default(),
        };
        let router = Api::<Archive>::new(&context)
            .get("/v1/streams/wdiff/{vol}", &[Role::Proxy], wdiff)
            .finish(archive.clone());
        lifecycle.spawn(server::serve(context, listener, router));
        archive
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    pub fn whim(&self, whim: Whim) {
        self.model().whims.push_back(whim);
    }

    pub fn latest(&self, volume: &VolumeName) -> Gid {
        self.model().latest.get(volume).map_or(Gid(0), |s| s.begin())
    }

    pub async fn reached(&self, volume: &VolumeName, gid: Gid) {
        until("the archive to get there", || async {
            (self.latest(volume) >= gid).then_some(())
        })
        .await;
    }

    pub async fn offered(&self, times: usize) {
        until("the offers", || async {
            (self.model().offers.len() >= times).then_some(())
        })
        .await;
    }

    /// The image of a volume equals what its guest wrote.
    pub fn assert_equals(&self, volume: &VolumeName, image: &MemImage) {
        let model = self.model();
        let found = model.images[volume].bytes();
        assert!(*found == *image.bytes(), "image of {volume} differs");
    }
}

async fn wdiff(
    State(archive): State<Archive>,
    Volume(name): Volume,
    request: Request,
) -> Result<axum::response::Response, ApiError> {
    let (context, volume) = (archive.context.clone(), name.clone());
    server::upgrade(
        &context,
        request,
        StreamKind::Wdiff,
        name,
        move |mut stream| async move {
            // A proxy that goes away is part of some tests.
            let _ = receive(&archive, &volume, &mut stream).await;
        },
    )
}

async fn receive(archive: &Archive, volume: &VolumeName, stream: &mut Stream) -> Result<(), StreamError> {
    let begin: WdiffBegin = stream.recv().await?;
    let (whim, refusal) = {
        let mut model = archive.model();
        model.offers.push(begin.clone());
        let latest = *model
            .latest
            .entry(volume.clone())
            .or_insert(Snapshot::clean(Gid(0)));
        model
            .images
            .entry(volume.clone())
            .or_insert_with(|| Arc::new(MemImage::filled(begin.size, 0)));
        let relation = match begin.diff.relation(latest) {
            _ if model.uuid.is_some_and(|uuid| uuid != begin.uuid) => Some(RefusalReason::DifferentUuid),
            Relation::Applicable => None,
            Relation::TooOld => Some(RefusalReason::TooOldDiff),
            _ => Some(RefusalReason::TooNewDiff),
        };
        let whim = model.whims.pop_front();
        match &whim {
            Some(Whim::Refuse(reason)) => (whim.clone(), Some(*reason)),
            _ => (whim, relation),
        }
    };
    if let Some(reason) = refusal {
        let message = format!("refused: {reason:?}");
        return stream.send(&Answer::Refuse(Refusal { reason, message })).await;
    }
    stream.send(&Answer::Accept).await?;
    match whim {
        Some(Whim::Hang) => return std::future::pending().await,
        Some(Whim::Fail) => {
            stream.recv_bulk().await?;
            stream
                .fail(&ApiError::new(
                    walb_common::rest::ErrorCode::NoSpace,
                    "no space left",
                ))
                .await;
            return Ok(());
        }
        _ => {}
    }
    let mut bytes = BytesMut::new();
    while let Received::Bulk(bulk) = stream.recv_bulk().await? {
        assert_eq!(bulk.tag, bytes.len() as u64, "the tag is the position");
        bytes.extend_from_slice(&bulk.payload);
        stream.consumed(&bulk).await?;
    }
    if matches!(whim, Some(Whim::NoDone)) {
        return Ok(());
    }
    {
        let mut model = archive.model();
        let reader = wdiff_reader(bytes.freeze());
        assert_eq!(reader.uuid(), begin.uuid);
        let image = model.images[volume].clone();
        apply_wdiffs(vec![reader], &*image, DiscardMode::Zero, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let latest = model.latest[volume].apply(&begin.diff).unwrap();
        model.latest.insert(volume.clone(), latest);
        model.accepted.push(begin);
    }
    stream.send(&Done {}).await
}

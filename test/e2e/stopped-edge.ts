/** A mesh whose edge drops who is silent for a few seconds: prints the place and the users, and serves until it is killed. */
import { LocalMesh } from '../local-mesh.js';

const mesh = await LocalMesh.start({ edge: { turnMs: Number(process.argv[2]) } });
console.info(JSON.stringify({ url: mesh.url, users: await mesh.users(4) }));

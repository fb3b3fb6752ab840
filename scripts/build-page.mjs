// Bundles services/edge/page/ into services/edge/dist/page/, from where the edge serves it.
import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const page = fileURLToPath(new URL('../services/edge/page/', import.meta.url));
const dist = fileURLToPath(new URL('../services/edge/dist/page/', import.meta.url));

await mkdir(dist, { recursive: true });
await build({
  entryPoints: [join(page, 'page.ts'), join(page, 'page.css')],
  outdir: dist,
  bundle: true,
  minify: true,
  format: 'esm',
  target: ['chrome123', 'firefox128', 'safari17.5'],
  legalComments: 'none',
  logLevel: 'warning',
});
for (const file of ['index.html', 'icon.svg']) await copyFile(join(page, file), join(dist, file));

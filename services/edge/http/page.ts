import { existsSync, readFileSync } from 'node:fs';

/** A file of the page, ready to be served. */
export interface PageFile {
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, string>>;
}

const HEADERS = {
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache',
};

const FILES: Record<string, { file: string; type: string }> = {
  '/': { file: 'index.html', type: 'text/html; charset=utf-8' },
  '/page.js': { file: 'page.js', type: 'text/javascript; charset=utf-8' },
  '/icon.svg': { file: 'icon.svg', type: 'image/svg+xml' },
  '/page.css': { file: 'page.css', type: 'text/css; charset=utf-8' },
};

const loaded = new Map<string, PageFile | undefined>();

/** The page's file at `path`; undefined for any other path. */
export function page(path: string): PageFile | undefined {
  const entry = Object.hasOwn(FILES, path) ? FILES[path] : undefined;
  if (!entry) return undefined;
  if (!loaded.has(path)) {
    // Compiled code is in dist/http, the built page in dist/page.
    const url = new URL(`../page/${entry.file}`, import.meta.url);
    loaded.set(
      path,
      existsSync(url) ? { body: readFileSync(url), headers: { ...HEADERS, 'content-type': entry.type } } : undefined,
    );
  }
  return loaded.get(path);
}

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { TestMesh, type TestUser } from '../mesh.js';

const deploy = (path: string) => fileURLToPath(new URL(`../../../deploy/${path}`, import.meta.url));
const DASHBOARDS = readdirSync(deploy('grafana'));
const ALERTS = readFileSync(deploy('prometheus/alerts.yaml'), 'utf8');

/** Every expression in a dashboard, its variables' included. */
function expressionsOf(name: string): string[] {
  const { panels, templating } = JSON.parse(readFileSync(deploy(`grafana/${name}`), 'utf8')) as {
    panels: { targets?: { expr: string }[] }[];
    templating: { list: { type: string; query: { query: string } }[] };
  };
  const variables = templating.list.filter(({ type }) => type === 'query').map(({ query }) => query.query);
  return [...panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)), ...variables];
}

/** Names of samples in an expression with the labels that are asked for; `up` is Prometheus' own. */
function samplesIn(expression: string): { name: string; labels: string[] }[] {
  return [...expression.matchAll(/\b((?:chatmesh|nodejs|process)_\w+)(\{[^}]*\})?/g)].map(([, name, selector]) => ({
    name: name as string,
    labels: [...(selector ?? '').matchAll(/(\w+)\s*[=!]/g)].map(([, label]) => label as string),
  }));
}

describe('deploy/', () => {
  let mesh: TestMesh;
  let text: string;
  const names = new Set<string>();

  beforeAll(async () => {
    mesh = await TestMesh.start();
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const client = await WireClient.connect(mesh.url, ada);
    await client.answer(client.message(bob, 'hello'));
    text = await (await fetch(`http://127.0.0.1:${mesh.process('edge').adminPort}/metrics`)).text();
    await client.close();
    for (const [, name, type] of text.matchAll(/^# TYPE (\S+) (\w+)$/gm)) {
      const suffixes =
        type === 'histogram' ? ['_bucket', '_sum', '_count'] : type === 'summary' ? ['_sum', '_count'] : [''];
      for (const suffix of suffixes) names.add(`${name}${suffix}`);
    }
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  /** What of an expression the mesh does not expose: metrics, and labels where there are samples to tell. */
  function unknownIn(expression: string): string[] {
    return samplesIn(expression).flatMap(({ name, labels }) => {
      if (!names.has(name)) return [name];
      const sample = text.split('\n').find((line) => line.startsWith(`${name}{`)) ?? '';
      const own = labels.filter((label) => !['instance', 'job'].includes(label));
      return sample === '' ? [] : own.filter((label) => !sample.includes(`${label}="`)).map((l) => `${name}{${l}}`);
    });
  }

  test.each(DASHBOARDS)('every metric that %s shows is exposed by a mesh', (name) => {
    const expressions = expressionsOf(name);
    expect(expressions.length).toBeGreaterThan(10);
    expect(expressions.flatMap(unknownIn)).toEqual([]);
  });

  test('every metric that an alert asks for is exposed by a mesh', () => {
    const expressions = [...ALERTS.matchAll(/^\s+expr: (.+)$/gm)].map(([, expr]) => expr as string);
    expect(expressions.length).toBeGreaterThan(10);
    expect(expressions.flatMap(unknownIn)).toEqual([]);
  });

  test('every alert names its own section of the runbook, and how urgent it is', () => {
    const rules = ALERTS.split(/^\s+- alert: /m).slice(1);
    for (const rule of rules) {
      const name = /^\w+/.exec(rule)?.[0] ?? '';
      expect(rule).toContain(`runbook_url: docs/operations.md#${name.toLowerCase()}\n`);
      expect(rule).toMatch(/severity: (page|ticket)\n/);
    }
    expect(new Set(rules.map((rule) => /^\w+/.exec(rule)?.[0])).size).toBe(rules.length);
  });

  test('every metric of our own is on a dashboard or in an alert', () => {
    const asked = [...DASHBOARDS.flatMap(expressionsOf), ALERTS].join('\n');
    const own = [...text.matchAll(/^# TYPE (chatmesh_\S+)/gm)].map(([, name]) => name as string);
    expect(own.filter((name) => !asked.includes(name))).toEqual([]);
  });
});

import { cpus, release } from 'node:os';
import type { Outcome, Row, Scale } from './bench.js';

/** Everything that a run of the bench found, as it is written to the JSON file. */
export interface Report {
  date: string;
  machine: { cpu: string; cores: number; kernel: string; node: string };
  /** True when the servers wrote CPU profiles meanwhile, which slows them down. */
  profiled: boolean;
  scale: Scale;
  scenarios: Record<string, Outcome>;
  /** Scenarios that could not be finished, and why. */
  failures: Record<string, string>;
}

/** What was measured on. */
export function machine(): Report['machine'] {
  const all = cpus();
  return { cpu: all[0]?.model ?? 'unknown', cores: all.length, kernel: release(), node: process.version };
}

/** The report as a table in Markdown. */
export function markdown(report: Report): string {
  const { cpu, cores, kernel, node } = report.machine;
  const rows = Object.values(report.scenarios).flatMap((outcome) => outcome.rows);
  return [
    `${report.date.slice(0, 10)}, ${cores} cores (${cpu}), Linux ${kernel}, Node ${node.slice(1)}, loopback.`,
    ...(report.profiled ? ['', 'CPU profiles were written during the run: the figures are worse than without.'] : []),
    '',
    'The baseline is a bare relay in one Node process: `ws`, and an LMDB group commit before `sent`; it checks and',
    'repeats nothing, and passes `delivered` receipts on without storing them. Without receipts it drops them unread.',
    'The mesh does all that the protocol promises. The ratios are mesh to baseline; in brackets, to the one without',
    'receipts. Lost, repeated, reordered and altered messages: 0 in every finished run, or the run fails.',
    '',
    '| measure | unit | baseline without receipts | baseline | mesh before | mesh, embedded | on real engines | ratio | to before | goal | reached |',
    '|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|',
    ...rows.map(line),
    ...Object.entries(report.failures).map(([scenario, why]) => `\n${scenario} failed: ${why.split('\n')[0]}`),
  ].join('\n');
}

function line({ measure, unit, values, goal }: Row): string {
  const { baseline, mesh, 'baseline-no-receipts': lean, 'mesh-before': before, 'mesh-on-engines': onEngines } = values;
  const cells = [
    measure,
    unit,
    figure(lean),
    figure(baseline),
    figure(before),
    figure(mesh),
    figure(onEngines),
    figure(ratio(mesh, baseline)) + (mesh !== undefined && lean !== undefined ? ` (${figure(ratio(mesh, lean))})` : ''),
    figure(ratio(mesh, before)),
    goal?.text ?? '',
    goal ? (goal.reached ? 'yes' : 'no') : '',
  ];
  return `| ${cells.join(' | ')} |`;
}

function ratio(mesh: number | undefined, baseline: number | undefined): number | undefined {
  return mesh === undefined || baseline === undefined ? undefined : mesh / baseline;
}

/** Three significant digits. */
function figure(value: number | undefined): string {
  if (value === undefined) return '';
  return value.toLocaleString('en', { maximumSignificantDigits: 3 });
}

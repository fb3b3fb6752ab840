/** What one combination of labels has counted. Observing a value makes no object: it may be done for every message. */
export class Series {
  readonly labels: Readonly<Record<string, string>>;
  readonly #bounds: Float64Array;
  /** By bucket, not cumulated; the last one is for what is above all bounds. */
  readonly #counts: Float64Array;
  #sum = 0;

  constructor(labels: Readonly<Record<string, string>>, bounds: Float64Array) {
    this.labels = labels;
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  /** `value` is in the metric's unit. */
  observe(value: number): void {
    const bounds = this.#bounds;
    let i = 0;
    while (i < bounds.length && value > (bounds[i] as number)) i++;
    this.#counts[i] = (this.#counts[i] as number) + 1;
    this.#sum += value;
  }

  /** @internal as prom-client writes samples out. */
  samples(name: string): { metricName: string; labels: Record<string, string | number>; value: number }[] {
    const samples: ReturnType<Series['samples']> = [];
    let count = 0;
    for (const [i, n] of this.#counts.entries()) {
      count += n;
      const le = this.#bounds[i] ?? '+Inf';
      samples.push({ metricName: `${name}_bucket`, labels: { ...this.labels, le }, value: count });
    }
    samples.push({ metricName: `${name}_sum`, labels: this.labels, value: this.#sum });
    samples.push({ metricName: `${name}_count`, labels: this.labels, value: count });
    return samples;
  }
}

/**
 * A histogram of Prometheus. Unlike prom-client's own, which makes an object, a text and a function for each value, it
 * costs as much as counting does.
 */
export class Histogram<L extends string = string> {
  readonly name: string;
  readonly help: string;
  readonly type = 'histogram';
  readonly aggregator = 'sum';
  readonly #bounds: Float64Array;
  readonly #series = new Map<string, Series>();
  #unlabelled: Series | undefined;

  /** `buckets` are upper bounds in the metric's unit, rising. */
  constructor({ name, help, buckets }: { name: string; help: string; buckets: readonly number[] }) {
    this.name = name;
    this.help = help;
    this.#bounds = Float64Array.from(buckets);
  }

  /** The series with these labels: to be asked for once and kept. */
  labels(labels: Readonly<Record<L, string>>): Series {
    const key = JSON.stringify(Object.entries(labels).sort());
    let series = this.#series.get(key);
    if (!series) {
      series = new Series(labels, this.#bounds);
      this.#series.set(key, series);
    }
    return series;
  }

  /** Counts a value where there are no labels. */
  observe(value: number): void {
    this.#unlabelled ??= this.labels({} as Record<L, string>);
    this.#unlabelled.observe(value);
  }

  /** What prom-client's registry asks for. */
  async get() {
    const { name, help, type, aggregator } = this;
    return { name, help, type, aggregator, values: [...this.#series.values()].flatMap((s) => s.samples(name)) };
  }
}

import { defineConfig, type ViteUserConfig } from 'vitest/config';

/** Real processes that mostly wait, for leases and deadlines, or to be started: three files run side by side. */
const PATIENT = [
  'autonomy',
  'bad-luck',
  'federated-kill',
  'lifelong',
  'rollout',
  'two-managers',
].map((name) => `e2e/${name}.test.ts`);

/** Unit tests stand beside the code and touch neither network nor clock; the rest is integration. */
const config: ViteUserConfig = defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['*/src/**/*.test.ts', 'examples/**/*.test.ts', 'scripts/**/*.test.ts'],
          testTimeout: 20_000,
        },
      },
      {
        test: {
          name: 'integration',
          include: ['*/test/**/*.test.ts', 'e2e/*.test.ts'],
          exclude: PATIENT,
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          name: 'patient',
          include: PATIENT,
          testTimeout: 120_000,
          hookTimeout: 120_000,
          maxWorkers: 3,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});

export default config;

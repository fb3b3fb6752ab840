import { attemptsContract } from './attempts.js';
import { AttemptsModel } from './attempts-model.js';

attemptsContract('the model of the simulation', async (routers) => {
  const model = new AttemptsModel(() => 0);
  return {
    routers: Array.from({ length: routers }, (_, i) => model.of(`router-${i}`)),
    close: () => Promise.resolve(),
  };
});

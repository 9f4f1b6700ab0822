"""The model: a decoder backbone, a small head at step ends, the step losses. Importing this registers it with
Auto.
"""

from prm.modeling.process_reward_model import PRMHead, PRMOutput, ProcessRewardConfig, ProcessRewardModel

__all__ = ["PRMHead", "PRMOutput", "ProcessRewardConfig", "ProcessRewardModel"]

"""The ROS 2 shell of TACO: messages, conversions and nodes.

Our modules and the generated messages (``taco_ros.msg``, ``taco_ros.srv``) may lie in two
folders, the source tree and the install space; together they are one package.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
